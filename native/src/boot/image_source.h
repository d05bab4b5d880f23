#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tshyve::boot {

/// A kernel or initrd that is read piece by piece, straight to where it belongs.
class ImageSource {
 public:
  virtual ~ImageSource() = default;
  [[nodiscard]] virtual std::uint64_t size() const = 0;
  /// What messages call it.
  [[nodiscard]] virtual const std::string& name() const = 0;
  /// Fills all of `out` from this offset; beyond the end is an error of kind kCorrupt.
  virtual Result<void> read(std::uint64_t offset, std::span<std::byte> out) const = 0;
};

/// A regular, non-empty file. Read by pread(2) and not mapped: a file cut short meanwhile is an error, not a SIGBUS.
class FileImage final : public ImageSource {
 public:
  static Result<FileImage> open(const std::string& path);
  [[nodiscard]] std::uint64_t size() const override { return size_; }
  [[nodiscard]] const std::string& name() const override { return path_; }
  Result<void> read(std::uint64_t offset, std::span<std::byte> out) const override;

 private:
  FileImage(std::string path, UniqueFd fd, std::uint64_t size)
      : path_(std::move(path)), fd_(std::move(fd)), size_(size) {}
  std::string path_;
  UniqueFd fd_;
  std::uint64_t size_;
};

/// Bytes in memory, for tests and fuzzers.
class BytesImage final : public ImageSource {
 public:
  BytesImage(std::string name, std::span<const std::byte> bytes) : name_(std::move(name)), bytes_(bytes) {}
  [[nodiscard]] std::uint64_t size() const override { return bytes_.size(); }
  [[nodiscard]] const std::string& name() const override { return name_; }
  Result<void> read(std::uint64_t offset, std::span<std::byte> out) const override;

 private:
  std::string name_;
  std::span<const std::byte> bytes_;
};

}  // namespace tshyve::boot
