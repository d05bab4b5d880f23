#pragma once

#include <cstddef>
#include <cstdint>

namespace tshyve::net {

/// What of the work on packets one side leaves to the other.
struct Offloads {
  bool checksum = false;  ///< TCP and UDP checksums may be partial
  bool tso4 = false;      ///< TCP over IPv4 may come in segments of up to 64 KiB
  bool tso6 = false;
  bool ecn = false;  ///< ... also with ECN (Congestion Window Reduced) set

  bool operator==(const Offloads&) const = default;
};

/// Precedes every frame in the queues, and on a tap with IFF_VNET_HDR (Virtual I/O Device 1.2, section 5.1.6;
/// little-endian).
struct VirtioNetHeader {
  static constexpr std::uint8_t kNeedsChecksum = 1;
  static constexpr std::uint8_t kDataValid = 2;
  static constexpr std::uint8_t kGsoNone = 0;
  static constexpr std::uint8_t kGsoTcp4 = 1;
  static constexpr std::uint8_t kGsoTcp6 = 4;
  static constexpr std::uint8_t kGsoEcn = 0x80;

  std::uint8_t flags = 0;
  std::uint8_t gsoType = kGsoNone;
  std::uint16_t headerLength = 0;
  std::uint16_t gsoSize = 0;
  std::uint16_t checksumStart = 0;
  std::uint16_t checksumOffset = 0;
  std::uint16_t bufferCount = 0;

  /// True when it asks for nothing beyond `offloads` and points nowhere outside the frame.
  [[nodiscard]] bool validFor(std::size_t frameLength, const Offloads& offloads) const {
    if ((flags & kNeedsChecksum) != 0) {
      if (!offloads.checksum) return false;
      if (std::size_t{checksumStart} + checksumOffset + 2 > frameLength) return false;
    }
    if (gsoType == kGsoNone) return true;
    const int segmentation = gsoType & ~kGsoEcn;
    if ((gsoType & kGsoEcn) != 0 && !offloads.ecn) return false;
    if (segmentation == kGsoTcp4 ? !offloads.tso4 : segmentation != kGsoTcp6 || !offloads.tso6) return false;
    return (flags & kNeedsChecksum) != 0 && gsoSize > 0 && headerLength <= frameLength;
  }
};
static_assert(sizeof(VirtioNetHeader) == 12);

}  // namespace tshyve::net
