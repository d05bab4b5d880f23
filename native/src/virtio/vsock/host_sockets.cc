#include "virtio/vsock/host_sockets.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>

#include "net/unix_socket.h"
#include "virtio/vsock/connect_line.h"
#include "virtio/vsock/packet.h"

namespace tshyve::virtio {
namespace {

using std::chrono::steady_clock;

constexpr std::size_t kMaxCallers = 64;
constexpr std::chrono::seconds kCallerTime{2};
constexpr int kBacklog = 128;

Result<UniqueFd> connectTo(const std::string& path) {
  TSHYVE_TRY(const sockaddr_un address, net::unixAddress(path));
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return Error::fromErrno("socket");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return Error::fromErrno(path);
  }
  return socket;
}

}  // namespace

HostSockets::HostSockets(EventLoop& loop, const VsockConfig& config, std::function<void(Client)> onClient)
    : loop_(loop), config_(config), onClient_(std::move(onClient)) {}

Result<std::unique_ptr<HostSockets>> HostSockets::create(EventLoop& loop, const VsockConfig& config,
                                                         std::function<void(Client)> onClient) {
  if (::mkdir(config.directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return Error::fromErrno("cannot make the folder of the guest's sockets " + config.directory);
  }
  std::unique_ptr<HostSockets> sockets(new HostSockets(loop, config, std::move(onClient)));
  TSHYVE_TRY(sockets->timer_, EventLoop::Timer::create(loop, [self = sockets.get()] { self->onTimer(); }));
  // The longest name that will be asked for must fit too, or a port would work and another not.
  const std::string longest = config.directory + "/vsock.sock_4294967295";
  TSHYVE_TRY([[maybe_unused]] const sockaddr_un checked, net::unixAddress(longest));
  TSHYVE_CHECK(sockets->listen("connect", Convention::kHyperkit));
  TSHYVE_CHECK(sockets->listen("vsock.sock", Convention::kFirecracker));
  for (const std::uint32_t port : config.ports) {
    TSHYVE_CHECK(sockets->listen(formatVsockAddress({config.guestCid, port}), Convention::kPort, port));
  }
  return sockets;
}

HostSockets::~HostSockets() {
  for (const Listener& listener : listeners_) {
    if (listener.socket) ::unlink(listener.path.c_str());
  }
}

Result<void> HostSockets::listen(const std::string& name, Convention convention, std::uint32_t port) {
  Listener& listener = listeners_.emplace_back();
  listener.convention = convention;
  listener.port = port;
  listener.path = config_.directory + "/" + name;
  // Left by a process that was killed; one that is alive answers.
  if (connectTo(listener.path)) {
    return Error{ErrorCode::kBusy, "another process serves the guest's sockets at " + listener.path};
  }
  ::unlink(listener.path.c_str());
  TSHYVE_TRY(const sockaddr_un address, net::unixAddress(listener.path));
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return Error::fromErrno("socket");
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return Error::fromErrno("cannot make the socket " + listener.path);
  }
  listener.socket = std::move(socket);
  // Nobody connects before `listen`.
  if (::chmod(listener.path.c_str(), 0600) != 0 || ::listen(listener.socket.get(), kBacklog) != 0) {
    return Error::fromErrno("cannot listen at " + listener.path);
  }
  TSHYVE_TRY(listener.watch,
             loop_.watch(listener.socket.get(), EPOLLIN, [this, &listener](std::uint32_t) { acceptAll(listener); }));
  return {};
}

void HostSockets::acceptAll(Listener& listener) {
  while (callers_.size() < kMaxCallers) {
    UniqueFd socket(::accept4(listener.socket.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno == EAGAIN) return;
      // Out of descriptors: the client waits; a level-triggered event would come at once again.
      break;
    }
    if (listener.convention == Convention::kPort) {
      onClient_({std::move(socket), listener.port, false});
      continue;
    }
    const auto caller = callers_.emplace(callers_.end());
    caller->socket = std::move(socket);
    caller->convention = listener.convention;
    caller->deadline = steady_clock::now() + kCallerTime;
    auto watch = loop_.watch(caller->socket.get(), EPOLLIN, [this, caller](std::uint32_t) { readLine(caller); });
    if (!watch) {
      callers_.erase(caller);
      continue;
    }
    caller->watch = std::move(*watch);
    if (callers_.size() == 1) timer_->arm(kCallerTime);
  }
  for (Listener& other : listeners_) other.watch.setEvents(0);
  timer_->arm(std::chrono::milliseconds(100));
}

void HostSockets::readLine(Callers::iterator caller) {
  // Looked at first: what follows the line is the guest's.
  std::array<char, kMaxConnectLine> bytes{};
  const ssize_t count = ::recv(caller->socket.get(), bytes.data(), bytes.size(), MSG_PEEK);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  const std::string_view seen(bytes.data(), static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
  const std::size_t end = seen.find('\n');
  if (end == std::string_view::npos) {
    // Also a line in pieces: what is there stays there, and would be reported over and over. The next byte may come
    // any time, so it is taken in rarely.
    if (count <= 0 || seen.size() == bytes.size()) {
      callers_.erase(caller);
    } else {
      caller->watch.setEvents(0);
      timer_->arm(std::chrono::milliseconds(10));
    }
    return;
  }
  (void)!::recv(caller->socket.get(), bytes.data(), end + 1, 0);
  const std::string_view line = seen.substr(0, end);
  std::optional<std::uint32_t> port;
  if (caller->convention == Convention::kFirecracker) {
    port = parseConnectCommand(line);
  } else if (const auto address = parseVsockAddress(line); address && address->cid == config_.guestCid) {
    port = address->port;
  }
  caller->watch.reset();
  Client client{std::move(caller->socket), port.value_or(0), caller->convention == Convention::kFirecracker};
  callers_.erase(caller);
  if (port) onClient_(std::move(client));
}

void HostSockets::onTimer() {
  const auto now = steady_clock::now();
  for (auto caller = callers_.begin(); caller != callers_.end();) {
    if (caller->deadline <= now) {
      caller = callers_.erase(caller);
    } else {
      caller->watch.setEvents(EPOLLIN);
      ++caller;
    }
  }
  for (Listener& listener : listeners_) listener.watch.setEvents(EPOLLIN);
  if (!callers_.empty()) timer_->arm(std::chrono::milliseconds(100));
}

Result<UniqueFd> HostSockets::connect(std::uint32_t port) const {
  auto connected = connectTo(config_.directory + "/vsock.sock_" + std::to_string(port));
  if (connected) return connected;
  return connectTo(config_.directory + "/" + formatVsockAddress({static_cast<std::uint32_t>(kHostCid), port}));
}

}  // namespace tshyve::virtio
