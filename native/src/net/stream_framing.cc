#include "net/stream_framing.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace tshyve::net {
std::array<std::byte, 4> encodePrefix(LengthPrefix prefix, std::size_t length) {
  std::array<std::byte, 4> bytes{};
  const std::size_t size = prefixSize(prefix);
  for (std::size_t index = 0; index < size; index++) {
    const std::size_t shift = prefix == LengthPrefix::kBigEndian32 ? (size - 1 - index) * 8 : index * 8;
    bytes[index] = static_cast<std::byte>(length >> shift);
  }
  return bytes;
}

FrameBuffer::FrameBuffer(LengthPrefix prefix, std::size_t maxFrameSize, std::size_t readAhead)
    : prefix_(prefix), maxFrameSize_(maxFrameSize), bytes_(prefixSize(prefix) + maxFrameSize + readAhead) {}

std::span<std::byte> FrameBuffer::space() {
  // Room for a whole frame behind what is there already, at the price of moving less than a frame.
  if (begin_ == end_) {
    begin_ = end_ = 0;
  } else if (bytes_.size() - begin_ < prefixSize(prefix_) + maxFrameSize_ || end_ == bytes_.size()) {
    std::memmove(bytes_.data(), bytes_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  return std::span(bytes_).subspan(end_);
}

void FrameBuffer::filled(std::size_t count) { end_ += std::min(count, bytes_.size() - end_); }

std::optional<std::size_t> FrameBuffer::frontLength() const {
  const std::size_t size = prefixSize(prefix_);
  if (end_ - begin_ < size) return std::nullopt;
  std::size_t length = 0;
  for (std::size_t index = 0; index < size; index++) {
    const auto byte = static_cast<std::size_t>(bytes_[begin_ + index]);
    length = prefix_ == LengthPrefix::kBigEndian32 ? length << 8 | byte : length | byte << (index * 8);
  }
  return length;
}

Result<std::optional<std::span<const std::byte>>> FrameBuffer::front() const {
  using Frame = std::optional<std::span<const std::byte>>;
  const auto length = frontLength();
  if (!length) return Frame();
  if (*length > maxFrameSize_) {
    return Error{ErrorCode::kHost, "the network peer announced a frame of " + std::to_string(*length) +
                                       " bytes, more than the " + std::to_string(maxFrameSize_) + " possible"};
  }
  const std::size_t size = prefixSize(prefix_);
  if (end_ - begin_ < size + *length) return Frame();
  return Frame(std::span(bytes_).subspan(begin_ + size, *length));
}

void FrameBuffer::pop() {
  const auto length = frontLength();
  if (!length) return;
  begin_ += std::min(prefixSize(prefix_) + *length, end_ - begin_);
}

void FrameBuffer::clear() { begin_ = end_ = 0; }

}  // namespace tshyve::net
