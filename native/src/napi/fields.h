#pragma once

#include <napi.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace tshyve {

/// Reads a JavaScript object field by field. TypeScript has checked it before; this is the border where a wrong type
/// must become an error and not undefined behaviour. The first field that does not fit is remembered, later reads give
/// empty values; `finish` also refuses fields that nobody asked for, which catches misspelt optional ones.
class Fields {
 public:
  /// @param path how messages name the object, e.g. "disks[0]"
  Fields(Napi::Value value, std::string path);

  std::string text(const char* key, std::size_t maxBytes);
  bool flag(const char* key);
  /// A whole number from `least` to `most`.
  std::uint64_t number(const char* key, std::uint64_t least, std::uint64_t most);
  [[nodiscard]] bool has(const char* key) const;
  Fields object(const char* key);
  /// Calls `read` for every element of an array of objects, of at most `maxLength` elements.
  void each(const char* key, std::size_t maxLength, const std::function<void(Fields&)>& read);
  /// Notes a failure of the caller's, e.g. an unknown word.
  void fail(const char* key, const std::string& expected);
  /// Checks that all fields were asked for.
  void finish();
  /// Empty while all is well.
  [[nodiscard]] const std::string& failure() const { return *failure_; }

 private:
  Fields(Napi::Value value, std::string path, std::shared_ptr<std::string> failure);
  Napi::Value get(const char* key);

  Napi::Object object_;
  std::string path_;
  std::shared_ptr<std::string> failure_;
  std::vector<std::string> asked_;
};

}  // namespace tshyve
