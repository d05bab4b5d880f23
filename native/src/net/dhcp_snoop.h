#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "net/ethernet.h"

namespace tshyve::net {

/// A DHCP message between client and server in an Ethernet frame (RFC 2131, RFC 2132), as far as it matters here.
struct DhcpMessage {
  enum class Type : std::uint8_t {
    kDiscover = 1,
    kOffer = 2,
    kRequest = 3,
    kDecline = 4,
    kAcknowledge = 5,
    kRefuse = 6,
    kRelease = 7,
    kInform = 8,
  };
  bool fromServer = false;  ///< BOOTREPLY from port 67 to 68; else BOOTREQUEST the other way
  Type type = Type::kDiscover;
  std::uint32_t transaction = 0;
  MacAddress client{};
  std::array<std::uint8_t, 4> address{};  ///< "your address"
  std::uint32_t leaseSeconds = 0;         ///< 0: not said
};

/// A frame longer than this is not looked at; DHCP messages are at most 576 bytes unless a client asks for more.
constexpr std::size_t kLongestDhcpFrame = 1518;
/// Enough of a frame for the two questions below.
constexpr std::size_t kDhcpPeekSize = 24;

/// A cheap look at a frame's first bytes: an IPv4 datagram with UDP in an untagged frame?
bool mayBeDhcp(std::span<const std::byte> frame);

/// TCP over IPv4: a guest that sends it has an address, from wherever.
bool isTcp(std::span<const std::byte> frame);

/// @return nothing for everything that is not a whole, well-formed DHCP message on Ethernet: other traffic, VLAN tags,
/// fragments, BOOTP without a message type
std::optional<DhcpMessage> parseDhcp(std::span<const std::byte> frame);

/// Watches the frames of one interface for the moment its guest gets an address.
class DhcpSnoop {
 public:
  struct Lease {
    std::array<std::uint8_t, 4> address{};
    std::uint32_t seconds = 0;
  };
  using Sink = std::function<void(const Lease&)>;

  DhcpSnoop(const MacAddress& guest, Sink sink) : guest_(guest), sink_(std::move(sink)) {}

  /// A frame the guest sends.
  void fromGuest(std::span<const std::byte> frame);
  /// A frame on its way to the guest. Reports an acknowledgement for the guest's MAC that answers its last request.
  void toGuest(std::span<const std::byte> frame);

 private:
  MacAddress guest_;
  Sink sink_;
  std::optional<std::uint32_t> transaction_;
};

std::string toString(const std::array<std::uint8_t, 4>& ipv4);

}  // namespace tshyve::net
