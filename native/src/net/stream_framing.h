#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"

namespace tshyve::net {

/// What stands before each frame on a byte stream.
enum class LengthPrefix {
  kBigEndian32,     ///< QEMU's stream and socket back ends, passt, gvproxy, socket_vmnet
  kLittleEndian16,  ///< VPNKit
};

constexpr std::size_t prefixSize(LengthPrefix prefix) { return prefix == LengthPrefix::kBigEndian32 ? 4 : 2; }

/// @param length fits the prefix; the first `prefixSize` bytes count
std::array<std::byte, 4> encodePrefix(LengthPrefix prefix, std::size_t length);

/// Cuts a byte stream into frames. Bytes go in through `space` and `filled`, frames come out of `front` and `pop`.
class FrameBuffer {
 public:
  /// @param readAhead room beyond the longest frame: many frames a read
  FrameBuffer(LengthPrefix prefix, std::size_t maxFrameSize, std::size_t readAhead = 192 * 1024);

  /// Where the next bytes of the stream go; never empty as long as all whole frames are taken out.
  std::span<std::byte> space();
  /// @param count how many bytes were put there
  void filled(std::size_t count);

  /// The next whole frame, valid until `space` is called; nothing while it is incomplete.
  /// @return an error when a length is beyond the maximum: the stream is out of step and has to be closed
  Result<std::optional<std::span<const std::byte>>> front() const;
  /// Drops the frame `front` showed.
  void pop();
  void clear();

 private:
  [[nodiscard]] std::optional<std::size_t> frontLength() const;

  LengthPrefix prefix_;
  std::size_t maxFrameSize_;
  std::vector<std::byte> bytes_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

}  // namespace tshyve::net
