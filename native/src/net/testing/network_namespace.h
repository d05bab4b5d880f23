#pragma once

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstring>
#include <string>

#include "base/unique_fd.h"

namespace tshyve::net::test {

/// Moves the calling thread into a network namespace of its own, and back at the end.
class NetworkNamespace {
 public:
  NetworkNamespace() : before_(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)) {
    entered_ = before_ && ::unshare(CLONE_NEWNET) == 0;
  }
  NetworkNamespace(const NetworkNamespace&) = delete;
  NetworkNamespace& operator=(const NetworkNamespace&) = delete;
  ~NetworkNamespace() {
    if (entered_) ::setns(before_.get(), CLONE_NEWNET);
  }
  /// False without the right to make one.
  [[nodiscard]] bool entered() const { return entered_; }

 private:
  UniqueFd before_;
  bool entered_ = false;
};

inline ifreq interfaceRequest(const std::string& name) {
  ifreq request{};
  std::memcpy(request.ifr_name, name.data(), std::min<std::size_t>(name.size(), IFNAMSIZ - 1));
  return request;
}

/// A tap interface that outlives its descriptors, until the namespace goes.
inline bool createTap(const std::string& name, int flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR) {
  const UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  ifreq request = interfaceRequest(name);
  request.ifr_flags = static_cast<short>(flags);
  return ::ioctl(tap.get(), TUNSETIFF, &request) == 0 && ::ioctl(tap.get(), TUNSETPERSIST, 1) == 0;
}

inline bool setUp(const std::string& name) {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request = interfaceRequest(name);
  if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0) return false;
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  return ::ioctl(socket.get(), SIOCSIFFLAGS, &request) == 0;
}

inline bool setMtu(const std::string& name, int mtu) {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request = interfaceRequest(name);
  request.ifr_mtu = mtu;
  return ::ioctl(socket.get(), SIOCSIFMTU, &request) == 0;
}

}  // namespace tshyve::net::test
