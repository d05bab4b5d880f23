#include "net/switch/user_switch.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

#include "net/datagram_backend.h"
#include "net/dhcp_snoop.h"

namespace tshyve::net {
namespace {

// The network as libslirp has it by default; see slirp_backend.cc.
constexpr Ipv4Address kNetmask = {255, 255, 255, 0};
constexpr Ipv4Address kHost = {10, 0, 2, 2};
constexpr Ipv4Address kNameServer = {10, 0, 2, 3};
constexpr std::uint8_t kFirstMachine = 15;
constexpr std::uint8_t kLastMachine = 254;
/// libslirp's own address for the host: 52:55 and the IPv4 address.
constexpr MacAddress kHostMac = {0x52, 0x55, 10, 0, 2, 2};
constexpr MacAddress kNameServerMac = {0x52, 0x55, 10, 0, 2, 3};
constexpr std::uint16_t kMtu = 65520;
constexpr std::uint32_t kLeaseSeconds = 24 * 60 * 60;

Result<Ipv4Address> machineAddress(const std::string& text) {
  Ipv4Address address{};
  if (::inet_pton(AF_INET, text.c_str(), address.data()) != 1 ||
      !std::equal(kHost.begin(), kHost.begin() + 3, address.begin()) || address[3] < kFirstMachine ||
      address[3] > kLastMachine) {
    return Error{ErrorCode::kInvalidArgument,
                 "\"" + text + "\" is no address for a machine of a user-mode network; give 10.0.2.15 to 10.0.2.254"};
  }
  return address;
}

}  // namespace

Result<std::unique_ptr<UserSwitch>> UserSwitch::create(EventLoop& loop, UserSwitchSettings settings, Log log,
                                                       Acknowledged acknowledged) {
  UserNetwork uplink;
  uplink.dhcp = false;
  TSHYVE_TRY(auto slirp, SlirpBackend::create(loop, uplink, log));
  std::unique_ptr<UserSwitch> network(new UserSwitch(loop, std::move(settings), std::move(log)));
  network->dhcp_.onAcknowledged([sink = std::move(acknowledged)](const MacAddress& mac, const Ipv4Address& address) {
    if (sink) sink(toString(mac), toString(address));
  });
  for (const std::string& name : network->settings_.hostNames) network->names_.set(name, kHost);
  network->switch_ = std::make_unique<FrameSwitch>(
      loop, std::move(slirp),
      [self = network.get()](auto frame, auto& answers) { return self->intercept(frame, answers); });
  return network;
}

UserSwitch::UserSwitch(EventLoop& loop, UserSwitchSettings settings, Log log)
    : loop_(loop),
      settings_(std::move(settings)),
      log_(std::move(log)),
      dhcp_({.serverMac = kHostMac,
             .server = kHost,
             .netmask = kNetmask,
             .router = kHost,
             .nameServer = kNameServer,
             .domain = settings_.domain,
             .mtu = kMtu,
             .leaseSeconds = kLeaseSeconds}),
      names_(kNameServer, kNameServerMac) {}

bool UserSwitch::intercept(std::span<const std::byte> frame, std::vector<std::vector<std::byte>>& answers) {
  // Nearly every frame is something else: a cheap look first.
  if (!mayBeDhcp(frame)) return false;
  if (DhcpServer::isRequest(frame)) {
    if (auto answer = dhcp_.answer(frame)) answers.push_back(std::move(*answer));
    return true;
  }
  if (auto answer = names_.answer(frame)) {
    answers.push_back(std::move(*answer));
    return true;
  }
  return false;
}

Result<void> UserSwitch::addMachine(const UserSwitchMachine& machine) {
  TSHYVE_TRY(const MacAddress mac, parseMacAddress(machine.mac));
  TSHYVE_TRY(const Ipv4Address address, machineAddress(machine.address));
  if (memberAt(machine.address) != nullptr) {
    return Error{ErrorCode::kBusy, "the address " + machine.address + " is another machine's"};
  }
  TSHYVE_TRY(auto socket, DatagramBackend::create(loop_, machine.socket, log_));
  TSHYVE_CHECK(switch_->addMachine(mac, std::move(socket)));
  dhcp_.reserve(mac, address, machine.hostname);
  names_.set(machine.hostname, address);
  if (!settings_.domain.empty()) names_.set(machine.hostname + "." + settings_.domain, address);
  members_[mac] = {machine.hostname, machine.address, {}};
  return {};
}

Result<void> UserSwitch::removeMachine(const std::string& text) {
  TSHYVE_TRY(const MacAddress mac, parseMacAddress(text));
  const auto found = members_.find(mac);
  if (found == members_.end()) return {};
  for (const ForwardConfig& forward : std::vector(found->second.forwards)) TSHYVE_CHECK(removeForward(forward));
  switch_->removeMachine(mac);
  dhcp_.release(mac);
  names_.remove(found->second.hostname);
  names_.remove(found->second.hostname + "." + settings_.domain);
  members_.erase(mac);
  return {};
}

Result<std::uint16_t> UserSwitch::addForward(const ForwardConfig& forward) {
  Member* member = memberAt(forward.guestAddress);
  if (member == nullptr) {
    return Error{ErrorCode::kNotFound, "no machine of this network has the address \"" + forward.guestAddress + "\""};
  }
  TSHYVE_TRY(const std::uint16_t port, switch_->uplink().addForward(forward));
  member->forwards.push_back(forward);
  member->forwards.back().hostPort = port;
  return port;
}

Result<void> UserSwitch::removeForward(const ForwardConfig& forward) {
  TSHYVE_CHECK(switch_->uplink().removeForward(forward));
  for (auto& [mac, member] : members_) {
    std::erase_if(member.forwards, [&](const ForwardConfig& known) {
      return known.hostAddress == forward.hostAddress && known.hostPort == forward.hostPort && known.udp == forward.udp;
    });
  }
  return {};
}

UserSwitch::Member* UserSwitch::memberAt(const std::string& address) {
  for (auto& [mac, member] : members_) {
    if (member.address == address) return &member;
  }
  return nullptr;
}

}  // namespace tshyve::net
