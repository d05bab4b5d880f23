#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "net/ethernet.h"

namespace tshyve::net {

using Ipv4Address = std::array<std::uint8_t, 4>;

/// A UDP datagram over IPv4 in an untagged Ethernet frame (RFC 768, RFC 791).
struct UdpFrame {
  MacAddress sourceMac{};
  MacAddress destinationMac{};
  Ipv4Address source{};
  Ipv4Address destination{};
  std::uint16_t sourcePort = 0;
  std::uint16_t destinationPort = 0;
  std::span<const std::byte> payload;
};

/// @return nothing for everything else: other traffic, fragments, lengths that do not fit the frame
std::optional<UdpFrame> parseUdpFrame(std::span<const std::byte> frame);

/// The frame of a datagram. Without a UDP checksum, which IPv4 leaves to the sender.
std::vector<std::byte> buildUdpFrame(const UdpFrame& datagram);

/// Big-endian numbers, as all of these protocols have them. The range is the caller's to check.
inline std::uint16_t readBig16(std::span<const std::byte> bytes, std::size_t offset) {
  return static_cast<std::uint16_t>(std::to_integer<unsigned>(bytes[offset]) << 8 |
                                    std::to_integer<unsigned>(bytes[offset + 1]));
}
inline std::uint32_t readBig32(std::span<const std::byte> bytes, std::size_t offset) {
  return std::uint32_t{readBig16(bytes, offset)} << 16 | readBig16(bytes, offset + 2);
}
inline void appendBig16(std::vector<std::byte>& bytes, std::uint16_t value) {
  bytes.push_back(static_cast<std::byte>(value >> 8));
  bytes.push_back(static_cast<std::byte>(value & 0xff));
}
inline void appendBig32(std::vector<std::byte>& bytes, std::uint32_t value) {
  appendBig16(bytes, static_cast<std::uint16_t>(value >> 16));
  appendBig16(bytes, static_cast<std::uint16_t>(value & 0xffff));
}

}  // namespace tshyve::net
