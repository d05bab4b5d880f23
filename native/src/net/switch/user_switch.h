#pragma once

#include <functional>
#include <memory>
#include <string>

#include "net/slirp_backend.h"
#include "net/switch/dhcp_server.h"
#include "net/switch/frame_switch.h"
#include "net/switch/name_service.h"

namespace tshyve::net {

/// What the machines of a user-mode network call its host.
struct UserSwitchSettings {
  std::string domain;  ///< machines are NAME and NAME.domain
  std::vector<std::string> hostNames;
};

/// A machine that joins.
struct UserSwitchMachine {
  std::string mac;
  std::string address;  ///< in 10.0.2.0/24, from .15 to .254
  std::string hostname;
  DatagramNetwork socket;
};

/// A user-mode network for several machines: a switch, DHCP with an address that stays each machine's own, names, and
/// libslirp as the way out. One process serves all machines of a network, without any privilege. Everything on one
/// event loop.
class UserSwitch {
 public:
  using Acknowledged = std::function<void(const std::string& mac, const std::string& address)>;

  static Result<std::unique_ptr<UserSwitch>> create(EventLoop& loop, UserSwitchSettings settings, Log log,
                                                    Acknowledged acknowledged);

  Result<void> addMachine(const UserSwitchMachine& machine);
  /// Takes its forwards along. Fine when it is not there.
  Result<void> removeMachine(const std::string& mac);
  /// @return the host port that is bound
  Result<std::uint16_t> addForward(const ForwardConfig& forward);
  Result<void> removeForward(const ForwardConfig& forward);
  [[nodiscard]] const FrameSwitch::Counters& counters() const { return switch_->counters(); }

 private:
  struct Member {
    std::string hostname;
    std::string address;
    std::vector<ForwardConfig> forwards;
  };
  UserSwitch(EventLoop& loop, UserSwitchSettings settings, Log log);
  bool intercept(std::span<const std::byte> frame, std::vector<std::vector<std::byte>>& answers);
  Member* memberAt(const std::string& address);

  EventLoop& loop_;
  const UserSwitchSettings settings_;
  const Log log_;
  DhcpServer dhcp_;
  NameService names_;
  std::unique_ptr<FrameSwitch> switch_;
  std::map<MacAddress, Member> members_;
};

}  // namespace tshyve::net
