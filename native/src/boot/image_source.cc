#include "boot/image_source.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

namespace tshyve::boot {
namespace {

Error cutShort(const std::string& name) {
  return {ErrorCode::kCorrupt, name + " ends too early: the file is damaged or was changed while it was read"};
}

}  // namespace

Result<FileImage> FileImage::open(const std::string& path) {
  // Without O_NONBLOCK a FIFO would hang us here.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return Error::fromErrno("cannot open " + path);
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return Error::fromErrno("cannot read " + path);
  if (!S_ISREG(status.st_mode)) return Error{ErrorCode::kInvalidArgument, path + " is not a regular file"};
  if (status.st_size <= 0) return Error{ErrorCode::kCorrupt, path + " is empty"};
  return FileImage(path, std::move(fd), static_cast<std::uint64_t>(status.st_size));
}

Result<void> FileImage::read(std::uint64_t offset, std::span<std::byte> out) const {
  if (offset > size_ || out.size() > size_ - offset) return cutShort(path_);
  while (!out.empty()) {
    const ssize_t count = ::pread(fd_.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Error::fromErrno("cannot read " + path_);
    if (count == 0) return cutShort(path_);
    offset += static_cast<std::uint64_t>(count);
    out = out.subspan(static_cast<std::size_t>(count));
  }
  return {};
}

Result<void> BytesImage::read(std::uint64_t offset, std::span<std::byte> out) const {
  if (offset > bytes_.size() || out.size() > bytes_.size() - offset) return cutShort(name_);
  std::ranges::copy(bytes_.subspan(offset, out.size()), out.begin());
  return {};
}

}  // namespace tshyve::boot
