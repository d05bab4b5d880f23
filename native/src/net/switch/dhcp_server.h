#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "net/dhcp_snoop.h"
#include "net/ethernet.h"
#include "net/udp_frame.h"

namespace tshyve::net {

/// What a network tells its machines (RFC 2132).
struct DhcpSettings {
  MacAddress serverMac{};
  Ipv4Address server{};
  Ipv4Address netmask{};
  Ipv4Address router{};
  Ipv4Address nameServer{};
  std::string domain;
  std::uint16_t mtu = 0;  ///< 0: not told
  std::uint32_t leaseSeconds = 0;
};

/// A DHCP server for machines that are known beforehand (RFC 2131): each has its own address, which is the same
/// whenever it asks. Nobody else gets an answer.
class DhcpServer {
 public:
  explicit DhcpServer(DhcpSettings settings) : settings_(std::move(settings)) {}

  /// Called at the moment an address is acknowledged.
  using Acknowledged = std::function<void(const MacAddress& client, const Ipv4Address& address)>;
  void onAcknowledged(Acknowledged sink) { acknowledged_ = std::move(sink); }

  void reserve(const MacAddress& client, const Ipv4Address& address, std::string hostname);
  void release(const MacAddress& client);

  /// @return the answer to a frame that asks for one; nothing for everything else
  std::optional<std::vector<std::byte>> answer(std::span<const std::byte> frame);
  /// True when the frame is for a DHCP server, whether it gets an answer or not: it should go nowhere else.
  static bool isRequest(std::span<const std::byte> frame);

 private:
  struct Reservation {
    Ipv4Address address;
    std::string hostname;
  };
  struct Request;
  static std::optional<Request> parse(std::span<const std::byte> payload);
  [[nodiscard]] std::vector<std::byte> reply(const Request& request, DhcpMessage::Type type,
                                             const Reservation* reservation) const;

  const DhcpSettings settings_;
  std::map<MacAddress, Reservation> reservations_;
  Acknowledged acknowledged_;
};

}  // namespace tshyve::net
