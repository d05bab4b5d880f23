#include "net/dhcp_snoop.h"

#include <algorithm>

#include "net/udp_frame.h"

namespace tshyve::net {
namespace {

using Bytes = std::span<const std::byte>;

constexpr std::size_t kTypeOffset = 12;
constexpr unsigned kEtherTypeIpv4 = 0x0800;
// RFC 791.
constexpr std::size_t kIpProtocolOffset = 9;
constexpr unsigned kProtocolTcp = 6;
constexpr unsigned kProtocolUdp = 17;
constexpr unsigned kServerPort = 67;
constexpr unsigned kClientPort = 68;
// RFC 2131, figure 1.
constexpr std::size_t kTransactionOffset = 4;
constexpr std::size_t kYourAddressOffset = 16;
constexpr std::size_t kClientHardwareOffset = 28;
constexpr std::size_t kServerNameOffset = 44;
constexpr std::size_t kServerNameSize = 64;
constexpr std::size_t kFileOffset = 108;
constexpr std::size_t kFileSize = 128;
constexpr std::size_t kCookieOffset = 236;
constexpr std::size_t kOptionsOffset = 240;
constexpr unsigned kBootRequest = 1;
constexpr unsigned kBootReply = 2;
constexpr unsigned kHardwareEthernet = 1;
constexpr std::uint32_t kCookie = 0x63825363;
// RFC 2132, sections 3.1, 3.2, 9.2, 9.3, 9.6.
constexpr unsigned kOptionPad = 0;
constexpr unsigned kOptionLeaseTime = 51;
constexpr unsigned kOptionOverload = 52;
constexpr unsigned kOptionMessageType = 53;
constexpr unsigned kOptionEnd = 255;

unsigned byteAt(Bytes bytes, std::size_t offset) { return std::to_integer<unsigned>(bytes[offset]); }

struct Options {
  std::optional<unsigned> type;
  std::optional<std::uint32_t> leaseSeconds;
  unsigned overload = 0;
};

/// @return false when an option runs over the end of its field
bool scanOptions(Bytes field, Options& options) {
  std::size_t at = 0;
  while (at < field.size()) {
    const unsigned code = byteAt(field, at++);
    if (code == kOptionPad) continue;
    if (code == kOptionEnd) return true;
    if (at >= field.size()) return false;
    const std::size_t length = byteAt(field, at++);
    if (length > field.size() - at) return false;
    const Bytes value = field.subspan(at, length);
    at += length;
    if (code == kOptionMessageType && length == 1) options.type = byteAt(value, 0);
    if (code == kOptionLeaseTime && length == 4) options.leaseSeconds = readBig32(value, 0);
    if (code == kOptionOverload && length == 1) options.overload = byteAt(value, 0);
  }
  return true;
}

/// The UDP payload of an unfragmented datagram between the DHCP ports; nothing otherwise.
std::optional<Bytes> dhcpPayload(Bytes frame, bool& fromServer) {
  if (frame.size() > kLongestDhcpFrame) return std::nullopt;
  const auto datagram = parseUdpFrame(frame);
  if (!datagram) return std::nullopt;
  fromServer = datagram->sourcePort == kServerPort && datagram->destinationPort == kClientPort;
  const bool fromClient = datagram->sourcePort == kClientPort && datagram->destinationPort == kServerPort;
  if (!fromServer && !fromClient) return std::nullopt;
  return datagram->payload;
}

bool isIpv4(Bytes frame, unsigned protocol) {
  return frame.size() >= kDhcpPeekSize && readBig16(frame, kTypeOffset) == kEtherTypeIpv4 &&
         byteAt(frame, kEthernetHeaderSize) >> 4 == 4 &&
         byteAt(frame, kEthernetHeaderSize + kIpProtocolOffset) == protocol;
}

/// An address a host can have.
bool isUnicast(const std::array<std::uint8_t, 4>& address) {
  return address[0] != 0 && address[0] != 127 && address[0] < 224;
}

}  // namespace

bool mayBeDhcp(Bytes frame) { return isIpv4(frame, kProtocolUdp); }

bool isTcp(Bytes frame) { return isIpv4(frame, kProtocolTcp); }

std::optional<DhcpMessage> parseDhcp(Bytes frame) {
  DhcpMessage message;
  const auto payload = dhcpPayload(frame, message.fromServer);
  if (!payload || payload->size() < kOptionsOffset || readBig32(*payload, kCookieOffset) != kCookie)
    return std::nullopt;
  if (byteAt(*payload, 0) != (message.fromServer ? kBootReply : kBootRequest)) return std::nullopt;
  if (byteAt(*payload, 1) != kHardwareEthernet || byteAt(*payload, 2) != message.client.size()) return std::nullopt;
  message.transaction = readBig32(*payload, kTransactionOffset);
  for (std::size_t index = 0; index < message.client.size(); index++) {
    message.client[index] = static_cast<std::uint8_t>(byteAt(*payload, kClientHardwareOffset + index));
  }
  for (std::size_t index = 0; index < message.address.size(); index++) {
    message.address[index] = static_cast<std::uint8_t>(byteAt(*payload, kYourAddressOffset + index));
  }
  Options options;
  if (!scanOptions(payload->subspan(kOptionsOffset), options)) return std::nullopt;
  const unsigned overload = options.overload;
  if ((overload & 1) != 0 && !scanOptions(payload->subspan(kFileOffset, kFileSize), options)) return std::nullopt;
  if ((overload & 2) != 0 && !scanOptions(payload->subspan(kServerNameOffset, kServerNameSize), options)) {
    return std::nullopt;
  }
  if (!options.type || *options.type < 1 || *options.type > 8) return std::nullopt;
  message.type = static_cast<DhcpMessage::Type>(*options.type);
  message.leaseSeconds = options.leaseSeconds.value_or(0);
  return message;
}

void DhcpSnoop::fromGuest(Bytes frame) {
  const auto message = parseDhcp(frame);
  if (!message || message->fromServer || message->client != guest_) return;
  if (message->type == DhcpMessage::Type::kDiscover || message->type == DhcpMessage::Type::kRequest) {
    transaction_ = message->transaction;
  }
}

void DhcpSnoop::toGuest(Bytes frame) {
  const auto message = parseDhcp(frame);
  if (!message || !message->fromServer || message->client != guest_) return;
  if (message->type != DhcpMessage::Type::kAcknowledge || message->transaction != transaction_) return;
  // The answer to DHCPINFORM acknowledges no address.
  if (!isUnicast(message->address)) return;
  transaction_.reset();
  sink_({message->address, message->leaseSeconds});
}

std::string toString(const std::array<std::uint8_t, 4>& ipv4) {
  std::string text;
  for (const std::uint8_t part : ipv4) text += (text.empty() ? "" : ".") + std::to_string(part);
  return text;
}

}  // namespace tshyve::net
