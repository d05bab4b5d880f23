#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

#include "net/dhcp_snoop.h"
#include "net/frame_backend.h"

namespace tshyve::net::test {

using Frame = std::vector<std::byte>;

constexpr MacAddress kGuestMac = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};

/// Appends big-endian fields.
class FrameWriter {
 public:
  FrameWriter& u8(unsigned value) {
    frame.push_back(static_cast<std::byte>(value));
    return *this;
  }
  FrameWriter& u16(unsigned value) { return u8(value >> 8 & 0xff).u8(value & 0xff); }
  FrameWriter& u32(std::uint32_t value) { return u16(value >> 16).u16(value & 0xffff); }
  FrameWriter& mac(const MacAddress& value) {
    for (const std::uint8_t byte : value) u8(byte);
    return *this;
  }
  FrameWriter& text(std::string_view value) {
    for (const char character : value) u8(static_cast<unsigned char>(character));
    return *this;
  }
  FrameWriter& zeros(std::size_t count) {
    frame.resize(frame.size() + count);
    return *this;
  }
  FrameWriter& append(const Frame& other) {
    frame.insert(frame.end(), other.begin(), other.end());
    return *this;
  }
  Frame frame;
};

/// RFC 1071.
inline unsigned internetChecksum(std::span<const std::byte> bytes) {
  std::uint32_t sum = 0;
  for (std::size_t at = 0; at < bytes.size(); at++) {
    sum += std::to_integer<std::uint32_t>(bytes[at]) << (at % 2 == 0 ? 8 : 0);
  }
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return ~sum & 0xffff;
}

struct Udp {
  std::uint32_t source = 0;
  std::uint32_t destination = 0;
  unsigned sourcePort = 0;
  unsigned destinationPort = 0;
};

/// A UDP datagram (without UDP checksum) in an Ethernet frame.
inline Frame udpFrame(const MacAddress& to, const MacAddress& from, const Udp& addresses, const Frame& payload) {
  FrameWriter ip;
  ip.u8(0x45).u8(0).u16(static_cast<unsigned>(28 + payload.size())).u32(0).u8(64).u8(17).u16(0);
  ip.u32(addresses.source).u32(addresses.destination);
  const unsigned checksum = internetChecksum(ip.frame);
  ip.frame[10] = static_cast<std::byte>(checksum >> 8);
  ip.frame[11] = static_cast<std::byte>(checksum & 0xff);
  FrameWriter writer;
  writer.mac(to).mac(from).u16(0x0800).append(ip.frame);
  writer.u16(addresses.sourcePort).u16(addresses.destinationPort).u16(static_cast<unsigned>(8 + payload.size()));
  writer.u16(0).append(payload);
  return writer.frame;
}

/// The BOOTP part of a DHCP message with its options.
inline Frame dhcpPayload(bool fromServer, DhcpMessage::Type type, std::uint32_t transaction, const MacAddress& client,
                         std::uint32_t yourAddress, const Frame& options = {}) {
  FrameWriter writer;
  writer.u8(fromServer ? 2 : 1).u8(1).u8(6).u8(0).u32(transaction).u32(0).u32(0).u32(yourAddress).u32(0).u32(0);
  writer.mac(client).zeros(10 + 64 + 128).u32(0x63825363);
  writer.u8(53).u8(1).u8(static_cast<unsigned>(type)).append(options).u8(255);
  return writer.frame;
}

inline Frame dhcpFrame(bool fromServer, DhcpMessage::Type type, std::uint32_t transaction, const MacAddress& client,
                       std::uint32_t yourAddress = 0, const Frame& options = {}) {
  constexpr MacAddress kBroadcast = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  const Udp addresses = fromServer ? Udp{0x0a000202, 0xffffffff, 67, 68} : Udp{0, 0xffffffff, 68, 67};
  return udpFrame(kBroadcast, client, addresses,
                  dhcpPayload(fromServer, type, transaction, client, yourAddress, options));
}

/// Counts a backend's events.
class RecordingListener final : public FrameBackend::Listener {
 public:
  void framesReady() override { ready++; }
  void sendReady() override { sendable++; }
  void linkChanged() override { linkChanges++; }
  int ready = 0;
  int sendable = 0;
  int linkChanges = 0;
};

/// Sends frames as a device does. @return how many were taken
inline std::size_t sendFrames(FrameBackend& backend, const std::vector<Frame>& frames) {
  std::vector<iovec> parts;
  for (const Frame& frame : frames) parts.push_back({const_cast<std::byte*>(frame.data()), frame.size()});
  std::vector<OutgoingFrame> outgoing;
  for (std::size_t index = 0; index < frames.size(); index++) {
    outgoing.push_back({{}, std::span(parts).subspan(index, 1), frames[index].size()});
  }
  return backend.send(outgoing);
}

/// The next frame of a backend that has one.
inline std::optional<Frame> receiveFrame(FrameBackend& backend, std::size_t capacity = kMaxFrameSize) {
  Frame frame(capacity);
  // In two pieces, as guests' buffers are.
  const std::size_t half = capacity / 2;
  const iovec parts[] = {{frame.data(), half}, {frame.data() + half, capacity - half}};
  VirtioNetHeader header;
  const auto length = backend.receive(header, parts);
  if (!length) return std::nullopt;
  frame.resize(*length);
  return frame;
}

/// Runs the loop until the condition holds, for at most 5 s.
template <typename Condition>
bool runUntil(EventLoop& loop, Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    loop.runOnce(std::chrono::milliseconds(10));
  }
  return true;
}

}  // namespace tshyve::net::test
