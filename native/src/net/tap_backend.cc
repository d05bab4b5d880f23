#include "net/tap_backend.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <cstring>

namespace tshyve::net {
namespace {

constexpr const char* kTunDevice = "/dev/net/tun";

void setName(ifreq& request, const std::string& name) {
  std::memcpy(request.ifr_name, name.data(), std::min<std::size_t>(name.size(), IFNAMSIZ - 1));
}

/// Of an interface of our network namespace.
std::optional<int> interfaceMtu(const std::string& name) {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  setName(request, name);
  if (!socket || ::ioctl(socket.get(), SIOCGIFMTU, &request) != 0) return std::nullopt;
  return request.ifr_mtu;
}

bool interfaceExists(const std::string& name) {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  setName(request, name);
  return socket && ::ioctl(socket.get(), SIOCGIFINDEX, &request) == 0;
}

}  // namespace

Result<std::unique_ptr<TapBackend>> TapBackend::create(EventLoop& loop, const TapNetwork& config) {
  std::unique_ptr<TapBackend> backend(new TapBackend());
  if (config.fd >= 0) {
    TSHYVE_CHECK(backend->adopt(config.fd));
  } else {
    TSHYVE_CHECK(backend->openNamed(config.interfaceName));
  }
  TSHYVE_CHECK(backend->prepare(loop, config.vhost));
  return backend;
}

Result<void> TapBackend::openNamed(const std::string& name) {
  if (name.empty() || name.size() >= IFNAMSIZ) {
    return Error{ErrorCode::kInvalidArgument, "\"" + name + "\" is no interface name: 1 to 15 characters are allowed"};
  }
  // TUNSETIFF would make one that nothing is connected to, and that vanishes with us.
  if (!interfaceExists(name)) {
    return Error{ErrorCode::kNotFound, "there is no tap interface " + name + "; create it as root: ip tuntap add dev " +
                                           name + " mode tap user $USER"};
  }
  fd_.reset(::open(kTunDevice, O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd_) return Error::fromErrno(std::string("cannot open ") + kTunDevice);
  // A multi-queue interface can only be attached to with its flag.
  for (const int extra : {0, IFF_MULTI_QUEUE}) {
    ifreq request{};
    setName(request, name);
    request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | extra);
    if (::ioctl(fd_.get(), TUNSETIFF, &request) == 0) return {};
    if (errno != EINVAL) break;
  }
  if (errno == EBUSY) {
    return Error{ErrorCode::kBusy, "the tap interface " + name + " is in use by another process"};
  }
  if (errno == EPERM) {
    return Error{ErrorCode::kPermission, "the tap interface " + name +
                                             " is not ours to use; create it as root with this user as owner: ip " +
                                             "tuntap add dev " + name + " mode tap user $USER"};
  }
  return Error::fromErrno("cannot attach to the tap interface " + name);
}

Result<void> TapBackend::adopt(int fd) {
  // The descriptor stays the caller's.
  fd_.reset(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!fd_) return Error::fromErrno("the tap descriptor " + std::to_string(fd));
  const int flags = ::fcntl(fd_.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd_.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return Error::fromErrno("the tap descriptor " + std::to_string(fd));
  }
  return {};
}

Result<void> TapBackend::prepare(EventLoop& loop, bool vhost) {
  ifreq request{};
  if (::ioctl(fd_.get(), TUNGETIFF, &request) != 0) {
    return Error{ErrorCode::kInvalidArgument, "the descriptor given as tap is none: " + std::string(strerror(errno))};
  }
  const int flags = request.ifr_flags;
  if ((flags & IFF_TAP) == 0 || (flags & IFF_NO_PI) == 0) {
    return Error{ErrorCode::kInvalidArgument,
                 "the interface must be a tap (IFF_TAP) without packet information (IFF_NO_PI)"};
  }
  hasHeader_ = (flags & IFF_VNET_HDR) != 0;
  if (hasHeader_) {
    const int size = sizeof(VirtioNetHeader);
    if (::ioctl(fd_.get(), TUNSETVNETHDRSZ, &size) != 0) return Error::fromErrno("TUNSETVNETHDRSZ");
    // What the kernel accepts from us needs no ioctl; whether it has segmentation to give tells the probe.
    const unsigned probe = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    if (::ioctl(fd_.get(), TUNSETOFFLOAD, probe) == 0) {
      properties_.offloads = {.checksum = true, .tso4 = true, .tso6 = true, .ecn = true};
    } else if (::ioctl(fd_.get(), TUNSETOFFLOAD, TUN_F_CSUM) == 0) {
      properties_.offloads = {.checksum = true};
    }
    TSHYVE_CHECK(setReceiveOffloads({}));
    if (vhost) properties_.vhostFd = fd_.get();
  }
  request.ifr_name[IFNAMSIZ - 1] = '\0';
  if (const auto mtu = interfaceMtu(request.ifr_name); mtu && *mtu >= 68 && *mtu <= 65535) {
    properties_.mtu = static_cast<std::uint16_t>(*mtu);
  }
  TSHYVE_TRY(watch_, loop.watch(fd_.get(), 0, [this](std::uint32_t events) {
    if ((events & EPOLLOUT) != 0 && sendBlocked_) {
      sendBlocked_ = false;
      updateInterest();
      if (listener() != nullptr) listener()->sendReady();
    }
    // Gone with its interface: nothing will come any more.
    if ((events & (EPOLLERR | EPOLLHUP)) != 0 && (events & EPOLLIN) == 0) {
      watch_.reset();
      return;
    }
    if ((events & EPOLLIN) != 0 && receiving_ && listener() != nullptr) listener()->framesReady();
  }));
  return {};
}

Result<void> TapBackend::setReceiveOffloads(const Offloads& offloads) {
  if (!hasHeader_) return FrameBackend::setReceiveOffloads(offloads);
  unsigned flags = 0;
  if (offloads.checksum) {
    flags |= TUN_F_CSUM;
    // The kernel refuses segmentation without checksums.
    if (offloads.tso4) flags |= TUN_F_TSO4;
    if (offloads.tso6) flags |= TUN_F_TSO6;
    if (offloads.ecn && (offloads.tso4 || offloads.tso6)) flags |= TUN_F_TSO_ECN;
  }
  if (::ioctl(fd_.get(), TUNSETOFFLOAD, flags) != 0) return Error::fromErrno("TUNSETOFFLOAD");
  return {};
}

std::size_t TapBackend::send(std::span<const OutgoingFrame> frames) {
  std::size_t taken = 0;
  for (const OutgoingFrame& frame : frames) {
    // Our checked copy of the header goes out, not what the guest may have made of it since.
    VirtioNetHeader header = frame.header;
    header.bufferCount = 0;
    scratch_.clear();
    if (hasHeader_) scratch_.push_back({&header, sizeof header});
    scratch_.insert(scratch_.end(), frame.data.begin(), frame.data.end());
    ssize_t written = 0;
    do {
      written = ::writev(fd_.get(), scratch_.data(), static_cast<int>(scratch_.size()));
    } while (written < 0 && errno == EINTR);
    if (written < 0) {
      if (errno == EAGAIN || errno == ENOBUFS) {
        sendBlocked_ = true;
        updateInterest();
        return taken;
      }
      // EIO: the interface is down. EINVAL: the kernel sees a malformed packet.
      counters_.sendDropped++;
    }
    taken++;
  }
  return taken;
}

std::optional<std::size_t> TapBackend::receive(VirtioNetHeader& header, std::span<const iovec> target) {
  for (;;) {
    // The kernel cuts what does not fit, silently; one byte more shows it.
    std::byte excess{};
    header = {};
    std::size_t capacity = 0;
    scratch_.clear();
    if (hasHeader_) scratch_.push_back({&header, sizeof header});
    for (const iovec& part : target) {
      scratch_.push_back(part);
      capacity += part.iov_len;
    }
    scratch_.push_back({&excess, 1});
    const ssize_t count = ::readv(fd_.get(), scratch_.data(), static_cast<int>(scratch_.size()));
    if (count < 0) {
      if (errno == EINTR) continue;
      return std::nullopt;
    }
    const std::size_t prefix = hasHeader_ ? sizeof header : 0;
    if (static_cast<std::size_t>(count) <= prefix || static_cast<std::size_t>(count) > prefix + capacity) {
      counters_.receiveDropped++;
      continue;
    }
    return static_cast<std::size_t>(count) - prefix;
  }
}

void TapBackend::setReceiving(bool receiving) {
  receiving_ = receiving;
  updateInterest();
}

void TapBackend::updateInterest() {
  watch_.setEvents((receiving_ ? static_cast<std::uint32_t>(EPOLLIN) : 0U) |
                   (sendBlocked_ ? static_cast<std::uint32_t>(EPOLLOUT) : 0U));
}

}  // namespace tshyve::net
