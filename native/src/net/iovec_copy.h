#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

namespace tshyve::net {

/// Copies scattered bytes into one piece. @return how many were copied: all there are, or what fits
inline std::size_t gather(std::span<const iovec> source, std::span<std::byte> target) {
  std::size_t copied = 0;
  for (const iovec& part : source) {
    const std::size_t count = std::min(part.iov_len, target.size() - copied);
    if (count > 0) std::memcpy(target.data() + copied, part.iov_base, count);
    copied += count;
  }
  return copied;
}

/// Copies one piece into scattered space. @return false, with nothing copied, when it does not fit
inline bool scatter(std::span<const std::byte> source, std::span<const iovec> target) {
  std::size_t capacity = 0;
  for (const iovec& part : target) {
    capacity += part.iov_len;
    if (capacity >= source.size()) break;
  }
  if (capacity < source.size()) return false;
  for (const iovec& part : target) {
    if (source.empty()) break;
    const std::size_t count = std::min(part.iov_len, source.size());
    std::memcpy(part.iov_base, source.data(), count);
    source = source.subspan(count);
  }
  return true;
}

}  // namespace tshyve::net
