#include "net/switch/dhcp_server.h"

#include <algorithm>

namespace tshyve::net {
namespace {

using Bytes = std::span<const std::byte>;

constexpr std::uint16_t kServerPort = 67;
constexpr std::uint16_t kClientPort = 68;
constexpr Ipv4Address kBroadcast = {255, 255, 255, 255};
constexpr Ipv4Address kNone = {0, 0, 0, 0};

// RFC 2131, figure 1.
constexpr std::size_t kTransactionOffset = 4;
constexpr std::size_t kFlagsOffset = 10;
constexpr std::size_t kClientAddressOffset = 12;
constexpr std::size_t kClientHardwareOffset = 28;
constexpr std::size_t kCookieOffset = 236;
constexpr std::size_t kOptionsOffset = 240;
constexpr std::uint32_t kCookie = 0x63825363;
/// Smaller replies are dropped by old BOOTP relays and clients (RFC 1542, 2.1).
constexpr std::size_t kSmallestReply = 300;

// RFC 2132, and RFC 3397 for the search list.
enum Option : std::uint8_t {
  kPad = 0,
  kNetmask = 1,
  kRouter = 3,
  kNameServer = 6,
  kHostname = 12,
  kDomain = 15,
  kInterfaceMtu = 26,
  kRequestedAddress = 50,
  kLeaseTime = 51,
  kMessageType = 53,
  kServerIdentifier = 54,
  kRenewalTime = 58,
  kRebindingTime = 59,
  kEnd = 255,
};

using Type = DhcpMessage::Type;

Ipv4Address addressAt(Bytes bytes, std::size_t offset) {
  Ipv4Address address{};
  for (std::size_t index = 0; index < address.size(); index++) {
    address[index] = std::to_integer<std::uint8_t>(bytes[offset + index]);
  }
  return address;
}

void putOption(std::vector<std::byte>& out, Option code, std::span<const std::uint8_t> value) {
  out.push_back(std::byte{code});
  out.push_back(static_cast<std::byte>(value.size()));
  for (const std::uint8_t octet : value) out.push_back(std::byte{octet});
}

void putText(std::vector<std::byte>& out, Option code, const std::string& text) {
  if (text.empty() || text.size() > 255) return;
  putOption(out, code, {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

void putSeconds(std::vector<std::byte>& out, Option code, std::uint32_t seconds) {
  out.push_back(std::byte{code});
  out.push_back(std::byte{4});
  appendBig32(out, seconds);
}

}  // namespace

struct DhcpServer::Request {
  std::uint8_t type = 0;
  std::uint32_t transaction = 0;
  std::uint16_t flags = 0;
  Ipv4Address clientAddress{};
  MacAddress client{};
  std::optional<Ipv4Address> requested;
  std::optional<Ipv4Address> server;
};

void DhcpServer::reserve(const MacAddress& client, const Ipv4Address& address, std::string hostname) {
  reservations_[client] = {address, std::move(hostname)};
}

void DhcpServer::release(const MacAddress& client) { reservations_.erase(client); }

bool DhcpServer::isRequest(Bytes frame) {
  const auto datagram = parseUdpFrame(frame);
  return datagram && datagram->sourcePort == kClientPort && datagram->destinationPort == kServerPort;
}

std::optional<DhcpServer::Request> DhcpServer::parse(Bytes payload) {
  if (payload.size() < kOptionsOffset || readBig32(payload, kCookieOffset) != kCookie) return std::nullopt;
  // A request, Ethernet, six octets of hardware address.
  if (readBig16(payload, 0) != 0x0101 || std::to_integer<unsigned>(payload[2]) != 6) return std::nullopt;
  Request request;
  request.transaction = readBig32(payload, kTransactionOffset);
  request.flags = readBig16(payload, kFlagsOffset);
  request.clientAddress = addressAt(payload, kClientAddressOffset);
  for (std::size_t index = 0; index < request.client.size(); index++) {
    request.client[index] = std::to_integer<std::uint8_t>(payload[kClientHardwareOffset + index]);
  }
  std::size_t at = kOptionsOffset;
  while (at < payload.size()) {
    const auto code = std::to_integer<std::uint8_t>(payload[at++]);
    if (code == kPad) continue;
    if (code == kEnd) break;
    if (at >= payload.size()) return std::nullopt;
    const auto length = std::to_integer<std::size_t>(payload[at++]);
    if (length > payload.size() - at) return std::nullopt;
    if (code == kMessageType && length == 1) request.type = std::to_integer<std::uint8_t>(payload[at]);
    if (code == kRequestedAddress && length == 4) request.requested = addressAt(payload, at);
    if (code == kServerIdentifier && length == 4) request.server = addressAt(payload, at);
    at += length;
  }
  return request;
}

std::optional<std::vector<std::byte>> DhcpServer::answer(Bytes frame) {
  const auto datagram = parseUdpFrame(frame);
  if (!datagram || datagram->sourcePort != kClientPort || datagram->destinationPort != kServerPort) return std::nullopt;
  const auto request = parse(datagram->payload);
  // A machine asks for itself only.
  if (!request || request->client != datagram->sourceMac) return std::nullopt;
  const auto found = reservations_.find(request->client);
  if (found == reservations_.end()) return std::nullopt;
  const Reservation& reservation = found->second;
  switch (static_cast<Type>(request->type)) {
    case Type::kDiscover:
      return reply(*request, Type::kOffer, &reservation);
    case Type::kRequest: {
      // It has taken another server's offer, which here can only be a mistake of the guest's.
      if (request->server && *request->server != settings_.server) return std::nullopt;
      const Ipv4Address wanted = request->requested.value_or(request->clientAddress);
      if (wanted != reservation.address) return reply(*request, Type::kRefuse, nullptr);
      if (acknowledged_) acknowledged_(request->client, reservation.address);
      return reply(*request, Type::kAcknowledge, &reservation);
    }
    case Type::kInform: {
      Reservation settingsOnly{kNone, reservation.hostname};
      return reply(*request, Type::kAcknowledge, &settingsOnly);
    }
    default:
      // Declined or released: its address stays its own.
      return std::nullopt;
  }
}

std::vector<std::byte> DhcpServer::reply(const Request& request, DhcpMessage::Type type,
                                         const Reservation* reservation) const {
  std::vector<std::byte> payload;
  appendBig32(payload, 0x02010600);
  appendBig32(payload, request.transaction);
  appendBig16(payload, 0);
  appendBig16(payload, request.flags);
  const auto putAddress = [&](const Ipv4Address& address) {
    for (const std::uint8_t octet : address) payload.push_back(std::byte{octet});
  };
  putAddress(type == Type::kAcknowledge ? request.clientAddress : kNone);
  putAddress(reservation == nullptr ? kNone : reservation->address);
  putAddress(kNone);
  putAddress(kNone);
  for (const std::uint8_t octet : request.client) payload.push_back(std::byte{octet});
  payload.resize(kCookieOffset);
  appendBig32(payload, kCookie);
  putOption(payload, kMessageType, std::array{static_cast<std::uint8_t>(type)});
  putOption(payload, kServerIdentifier, settings_.server);
  if (reservation != nullptr) {
    // The answer to DHCPINFORM has no lease.
    if (reservation->address != kNone) {
      putSeconds(payload, kLeaseTime, settings_.leaseSeconds);
      putSeconds(payload, kRenewalTime, settings_.leaseSeconds / 2);
      putSeconds(payload, kRebindingTime, settings_.leaseSeconds / 8 * 7);
    }
    putOption(payload, kNetmask, settings_.netmask);
    putOption(payload, kRouter, settings_.router);
    putOption(payload, kNameServer, settings_.nameServer);
    putText(payload, kHostname, reservation->hostname);
    putText(payload, kDomain, settings_.domain);
    if (settings_.mtu != 0) {
      const auto mtu = settings_.mtu;
      putOption(payload, kInterfaceMtu,
                std::array{static_cast<std::uint8_t>(mtu >> 8), static_cast<std::uint8_t>(mtu & 0xff)});
    }
  }
  payload.push_back(std::byte{kEnd});
  payload.resize(std::max(payload.size(), kSmallestReply));

  UdpFrame out;
  out.sourceMac = settings_.serverMac;
  out.destinationMac = request.client;
  out.source = settings_.server;
  // A client that renews listens at its address; one without an address takes what is sent to all.
  out.destination = type == Type::kAcknowledge && request.clientAddress != kNone ? request.clientAddress : kBroadcast;
  out.sourcePort = kServerPort;
  out.destinationPort = kClientPort;
  out.payload = payload;
  return buildUdpFrame(out);
}

}  // namespace tshyve::net
