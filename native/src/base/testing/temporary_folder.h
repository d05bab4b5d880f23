#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace tshyve {

/// A folder of its own for a test's sockets and files, with a path short enough for both.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string path = "/tmp/tshyve-XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) std::abort();
    path_ = path;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] std::string path(const std::string& name) const { return path_ + "/" + name; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace tshyve
