#include "net/udp_frame.h"

#include <algorithm>

namespace tshyve::net {
namespace {

constexpr std::size_t kTypeOffset = 12;
constexpr std::uint16_t kEtherTypeIpv4 = 0x0800;
constexpr std::size_t kIpHeaderSize = 20;
constexpr std::size_t kUdpHeaderSize = 8;
constexpr unsigned kProtocolUdp = 17;
/// "More fragments" and the fragment offset.
constexpr std::uint16_t kFragmentMask = 0x3fff;
constexpr std::uint8_t kTimeToLive = 64;

template <std::size_t Size>
std::array<std::uint8_t, Size> bytesAt(std::span<const std::byte> bytes, std::size_t offset) {
  std::array<std::uint8_t, Size> out{};
  for (std::size_t index = 0; index < Size; index++) {
    out[index] = std::to_integer<std::uint8_t>(bytes[offset + index]);
  }
  return out;
}

template <std::size_t Size>
void append(std::vector<std::byte>& bytes, const std::array<std::uint8_t, Size>& value) {
  for (const std::uint8_t octet : value) bytes.push_back(static_cast<std::byte>(octet));
}

/// RFC 1071.
std::uint16_t internetChecksum(std::span<const std::byte> bytes) {
  std::uint32_t sum = 0;
  for (std::size_t offset = 0; offset + 1 < bytes.size(); offset += 2) sum += readBig16(bytes, offset);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(~sum);
}

}  // namespace

std::optional<UdpFrame> parseUdpFrame(std::span<const std::byte> frame) {
  if (frame.size() < kEthernetHeaderSize + kIpHeaderSize + kUdpHeaderSize) return std::nullopt;
  if (readBig16(frame, kTypeOffset) != kEtherTypeIpv4) return std::nullopt;
  const auto ip = frame.subspan(kEthernetHeaderSize);
  const unsigned versionAndLength = std::to_integer<unsigned>(ip[0]);
  const std::size_t headerSize = (versionAndLength & 0xf) * std::size_t{4};
  const std::size_t totalSize = readBig16(ip, 2);
  if (versionAndLength >> 4 != 4 || headerSize < kIpHeaderSize || totalSize > ip.size() ||
      totalSize < headerSize + kUdpHeaderSize || std::to_integer<unsigned>(ip[9]) != kProtocolUdp ||
      (readBig16(ip, 6) & kFragmentMask) != 0) {
    return std::nullopt;
  }
  // Behind the total size comes Ethernet padding.
  const auto udp = ip.subspan(headerSize, totalSize - headerSize);
  const std::size_t size = readBig16(udp, 4);
  if (size < kUdpHeaderSize || size > udp.size()) return std::nullopt;
  UdpFrame datagram;
  datagram.destinationMac = bytesAt<6>(frame, 0);
  datagram.sourceMac = bytesAt<6>(frame, 6);
  datagram.source = bytesAt<4>(ip, 12);
  datagram.destination = bytesAt<4>(ip, 16);
  datagram.sourcePort = readBig16(udp, 0);
  datagram.destinationPort = readBig16(udp, 2);
  datagram.payload = udp.subspan(kUdpHeaderSize, size - kUdpHeaderSize);
  return datagram;
}

std::vector<std::byte> buildUdpFrame(const UdpFrame& datagram) {
  const std::size_t udpSize = kUdpHeaderSize + datagram.payload.size();
  std::vector<std::byte> frame;
  frame.reserve(kEthernetHeaderSize + kIpHeaderSize + udpSize);
  append(frame, datagram.destinationMac);
  append(frame, datagram.sourceMac);
  appendBig16(frame, kEtherTypeIpv4);
  appendBig16(frame, 0x4500);
  appendBig16(frame, static_cast<std::uint16_t>(kIpHeaderSize + udpSize));
  appendBig32(frame, 0);
  frame.push_back(std::byte{kTimeToLive});
  frame.push_back(std::byte{kProtocolUdp});
  appendBig16(frame, 0);
  append(frame, datagram.source);
  append(frame, datagram.destination);
  const std::uint16_t checksum = internetChecksum(std::span(frame).subspan(kEthernetHeaderSize, kIpHeaderSize));
  frame[kEthernetHeaderSize + 10] = static_cast<std::byte>(checksum >> 8);
  frame[kEthernetHeaderSize + 11] = static_cast<std::byte>(checksum & 0xff);
  appendBig16(frame, datagram.sourcePort);
  appendBig16(frame, datagram.destinationPort);
  appendBig16(frame, static_cast<std::uint16_t>(udpSize));
  appendBig16(frame, 0);
  frame.insert(frame.end(), datagram.payload.begin(), datagram.payload.end());
  return frame;
}

}  // namespace tshyve::net
