#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/result.h"

namespace tshyve {

/// Device state on its way into a snapshot: little-endian values in sections that carry a name and a version.
class StateWriter {
 public:
  template <typename T>
  requires std::is_trivially_copyable_v<T> && std::has_unique_object_representations_v<T>
  void put(const T& value) {
    const auto bytes = std::as_bytes(std::span(&value, 1));
    data_.insert(data_.end(), bytes.begin(), bytes.end());
  }
  void putBytes(std::span<const std::byte> bytes) {
    put(static_cast<std::uint32_t>(bytes.size()));
    data_.insert(data_.end(), bytes.begin(), bytes.end());
  }
  void putString(std::string_view text) { putBytes(std::as_bytes(std::span(text))); }
  /// Begins a section; its reader must ask for the same name.
  void section(std::string_view name, std::uint32_t version) {
    putString(name);
    put(version);
  }
  [[nodiscard]] std::span<const std::byte> data() const { return data_; }

 private:
  std::vector<std::byte> data_;
};

/// Reads what a StateWriter wrote. The file may be damaged: every read is checked.
class StateReader {
 public:
  explicit StateReader(std::span<const std::byte> data) : data_(data) {}

  template <typename T>
  requires std::is_trivially_copyable_v<T> Result<void> get(T& value) {
    if (data_.size() < sizeof value) return truncated();
    std::memcpy(&value, data_.data(), sizeof value);
    data_ = data_.subspan(sizeof value);
    return {};
  }
  Result<std::span<const std::byte>> getBytes() {
    std::uint32_t size = 0;
    TSHYVE_CHECK(get(size));
    if (data_.size() < size) return truncated();
    const auto bytes = data_.first(size);
    data_ = data_.subspan(size);
    return bytes;
  }
  Result<std::string> getString() {
    TSHYVE_TRY(const auto bytes, getBytes());
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  /// @return the version of the section, which is from 1 to `newest`
  Result<std::uint32_t> section(std::string_view name, std::uint32_t newest) {
    TSHYVE_TRY(const std::string found, getString());
    std::uint32_t version = 0;
    TSHYVE_CHECK(get(version));
    if (found != name) {
      return Error{ErrorCode::kCorrupt, "the snapshot holds \"" + found + "\" where \"" + std::string(name) +
                                            "\" was expected: it is damaged, or of another machine"};
    }
    if (version < 1 || version > newest) {
      return Error{ErrorCode::kCorrupt, "the snapshot's " + std::string(name) + " has version " +
                                            std::to_string(version) + ", this program knows up to " +
                                            std::to_string(newest) + ": restore it with a newer tshyve"};
    }
    return version;
  }
  [[nodiscard]] std::size_t remaining() const { return data_.size(); }

 private:
  static Error truncated() { return {ErrorCode::kCorrupt, "the snapshot is cut short"}; }
  std::span<const std::byte> data_;
};

}  // namespace tshyve
