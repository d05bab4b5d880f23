#include "vz/sockets.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include "net/unix_socket.h"
#include "virtio/vsock/connect_line.h"

namespace tshyve::vz {
namespace {

/// VZFileHandleNetworkDeviceAttachment: the receive buffer at best four times the send buffer, which bounds a datagram.
constexpr int kSendBuffer = 1 << 20;
constexpr int kReceiveBuffer = 4 << 20;
constexpr std::size_t kChunk = 64 * 1024;
constexpr std::size_t kMaxCallers = 256;
constexpr std::size_t kMaxPairs = 1024;
constexpr std::chrono::seconds kCallerPatience{10};
constexpr std::uint32_t kHostCid = 2;

Result<void> setUp(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 || ::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
    return Error::fromErrno("cannot set up a socket");
  }
#ifdef SO_NOSIGPIPE
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
  return {};
}

#ifdef MSG_NOSIGNAL
constexpr int kSendFlags = MSG_NOSIGNAL;
#else
constexpr int kSendFlags = 0;
#endif

Result<UniqueFd> connectTo(const std::string& path) {
  TSHYVE_TRY(const sockaddr_un address, net::unixAddress(path));
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
  if (!fd) return Error::fromErrno("socket");
  TSHYVE_CHECK(setUp(fd.get()));
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return Error::fromErrno("cannot connect to " + path);
  }
  return fd;
}

std::string hexName(std::uint32_t port) { return virtio::formatVsockAddress({kHostCid, port}); }

}  // namespace

FrameSocket::~FrameSocket() {
  if (fd && !localPath.empty()) ::unlink(localPath.c_str());
}

Result<FrameSocket> openFrameSocket(const DatagramNetwork& peer) {
  FrameSocket made;
  if (peer.fd >= 0) {
    made.fd.reset(::fcntl(peer.fd, F_DUPFD_CLOEXEC, 3));
    if (!made.fd) return Error::fromErrno("the network socket " + std::to_string(peer.fd));
    int type = 0;
    socklen_t size = sizeof type;
    if (::getsockopt(made.fd.get(), SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_DGRAM) {
      return Error{ErrorCode::kInvalidArgument, "descriptor " + std::to_string(peer.fd) + " is not a datagram socket"};
    }
  } else {
    TSHYVE_TRY(const sockaddr_un there, net::unixAddress(peer.path));
    TSHYVE_TRY(const sockaddr_un here, net::unixAddress(peer.localPath));
    made.fd.reset(::socket(AF_UNIX, SOCK_DGRAM, 0));
    if (!made.fd || ::fcntl(made.fd.get(), F_SETFD, FD_CLOEXEC) != 0) return Error::fromErrno("socket");
    if (::bind(made.fd.get(), reinterpret_cast<const sockaddr*>(&here), sizeof here) != 0) {
      if (errno == EADDRINUSE) {
        return Error{ErrorCode::kBusy, "there is a file at " + peer.localPath +
                                           " already, where our end of the network socket goes; remove it"};
      }
      return Error::fromErrno("cannot make the network socket " + peer.localPath);
    }
    made.localPath = peer.localPath;
    if (::connect(made.fd.get(), reinterpret_cast<const sockaddr*>(&there), sizeof there) != 0) {
      return Error::fromErrno("cannot reach the network peer at " + peer.path);
    }
  }
  if (::setsockopt(made.fd.get(), SOL_SOCKET, SO_SNDBUF, &kSendBuffer, sizeof kSendBuffer) != 0 ||
      ::setsockopt(made.fd.get(), SOL_SOCKET, SO_RCVBUF, &kReceiveBuffer, sizeof kReceiveBuffer) != 0) {
    return Error::fromErrno("cannot give the network socket its buffers");
  }
  return made;
}

SocketBridge::SocketBridge(const VsockConfig& config, OnClient onClient)
    : config_(config), onClient_(std::move(onClient)) {}

Result<std::unique_ptr<SocketBridge>> SocketBridge::create(const VsockConfig& config, OnClient onClient) {
  std::unique_ptr<SocketBridge> bridge(new SocketBridge(config, std::move(onClient)));
  TSHYVE_CHECK(bridge->listen());
  bridge->thread_ = std::thread([raw = bridge.get()] { raw->run(); });
  return bridge;
}

SocketBridge::~SocketBridge() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  wake();
  if (thread_.joinable()) thread_.join();
  for (const Listener& listener : listeners_) ::unlink(listener.path.c_str());
}

Result<void> SocketBridge::listen() {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) return Error::fromErrno("cannot make a pipe");
  wakeRead_.reset(ends[0]);
  wakeWrite_.reset(ends[1]);
  TSHYVE_CHECK(setUp(ends[0]));
  TSHYVE_CHECK(setUp(ends[1]));
  if (::mkdir(config_.directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return Error::fromErrno("cannot make the folder " + config_.directory);
  }
  TSHYVE_CHECK(listenAt("connect", false, std::nullopt));
  TSHYVE_CHECK(listenAt("vsock.sock", true, std::nullopt));
  for (const std::uint32_t port : config_.ports) {
    TSHYVE_CHECK(listenAt(virtio::formatVsockAddress({config_.guestCid, port}), false, port));
  }
  return {};
}

Result<void> SocketBridge::listenAt(const std::string& name, bool firecracker, std::optional<std::uint32_t> port) {
  const std::string path = config_.directory + "/" + name;
  TSHYVE_TRY(const sockaddr_un address, net::unixAddress(path));
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM, 0));
  if (!socket) return Error::fromErrno("socket");
  TSHYVE_CHECK(setUp(socket.get()));
  // What an earlier run has left; the folder is this machine's alone.
  ::unlink(path.c_str());
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::chmod(path.c_str(), 0600) != 0 || ::listen(socket.get(), SOMAXCONN) != 0) {
    return Error::fromErrno("cannot listen at " + path);
  }
  listeners_.push_back({path, firecracker, port, std::move(socket)});
  return {};
}

void SocketBridge::wake() const {
  const char byte = 0;
  // A pipe that is full wakes as well.
  [[maybe_unused]] const ssize_t put = ::write(wakeWrite_.get(), &byte, 1);
}

void SocketBridge::joinClient(std::uint64_t id, Result<UniqueFd> guest) {
  Arrival arrival;
  arrival.id = id;
  if (guest) arrival.guest = std::move(guest).value();
  {
    const std::lock_guard lock(mutex_);
    arrivals_.push_back(std::move(arrival));
  }
  wake();
}

bool SocketBridge::joinGuest(std::uint32_t port, UniqueFd guest) {
  auto host = connectTo(config_.directory + "/vsock.sock_" + std::to_string(port));
  if (!host) host = connectTo(config_.directory + "/" + hexName(port));
  if (!host || !setUp(guest.get())) return false;
  Arrival arrival;
  arrival.guest = std::move(guest);
  arrival.host = std::move(host).value();
  {
    const std::lock_guard lock(mutex_);
    arrivals_.push_back(std::move(arrival));
  }
  wake();
  return true;
}

void SocketBridge::adopt() {
  std::vector<Arrival> arrivals;
  {
    const std::lock_guard lock(mutex_);
    arrivals.swap(arrivals_);
  }
  for (Arrival& arrival : arrivals) {
    if (arrival.id != 0) {
      const auto caller =
          std::find_if(callers_.begin(), callers_.end(), [&](const Caller& one) { return one.id == arrival.id; });
      if (caller == callers_.end()) continue;
      arrival.host = std::move(caller->socket);
      const bool acknowledge = caller->firecracker;
      callers_.erase(caller);
      if (!arrival.guest || !setUp(arrival.guest.get())) continue;
      // Firecracker tells the host's port, which the framework keeps to itself.
      constexpr std::string_view kOk = "OK 1073741824\n";
      if (acknowledge && ::send(arrival.host.get(), kOk.data(), kOk.size(), kSendFlags) < 0) continue;
    }
    if (pairs_.size() >= kMaxPairs) continue;
    Pair& pair = pairs_.emplace_back();
    pair.ends[0] = std::move(arrival.host);
    pair.ends[1] = std::move(arrival.guest);
  }
}

void SocketBridge::acceptAll(const Listener& listener) {
  for (;;) {
    UniqueFd client(::accept(listener.socket.get(), nullptr, nullptr));
    if (!client) return;
    if (callers_.size() >= kMaxCallers || !setUp(client.get())) continue;
    callers_.push_back({nextId_++,
                        std::move(client),
                        listener.firecracker,
                        false,
                        {},
                        std::chrono::steady_clock::now() + kCallerPatience});
    if (!listener.port) continue;
    callers_.back().waiting = true;
    onClient_(callers_.back().id, *listener.port);
  }
}

bool SocketBridge::readLine(Caller& caller) {
  // Byte by byte: what follows the line belongs to the guest.
  for (;;) {
    char byte = 0;
    const ssize_t got = ::recv(caller.socket.get(), &byte, 1, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno == EAGAIN;
    if (got == 0) return false;
    if (byte == '\n') break;
    caller.line += byte;
    if (caller.line.size() >= virtio::kMaxConnectLine) return false;
  }
  std::optional<std::uint32_t> port;
  if (caller.firecracker) {
    port = virtio::parseConnectCommand(caller.line);
  } else if (const auto address = virtio::parseVsockAddress(caller.line); address && address->cid == config_.guestCid) {
    port = address->port;
  }
  if (!port) return false;
  caller.waiting = true;
  onClient_(caller.id, *port);
  return true;
}

bool SocketBridge::carry(Pair& pair) {
  for (std::size_t from = 0; from < 2; ++from) {
    Half& half = pair.halves[from];
    const int source = pair.ends[from].get();
    const int target = pair.ends[1 - from].get();
    if (half.bytes.empty() && !half.ended) {
      half.bytes.resize(kChunk);
      const ssize_t got = ::recv(source, half.bytes.data(), half.bytes.size(), 0);
      half.bytes.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
      if (got == 0) half.ended = true;
      if (got < 0 && errno != EAGAIN && errno != EINTR) return false;
    }
    if (!half.bytes.empty()) {
      const ssize_t put = ::send(target, half.bytes.data(), half.bytes.size(), kSendFlags);
      if (put < 0 && errno != EAGAIN && errno != EINTR) return false;
      if (put > 0) half.bytes.erase(half.bytes.begin(), half.bytes.begin() + put);
    }
    if (half.ended && half.bytes.empty() && !half.closed) {
      ::shutdown(target, SHUT_WR);
      half.closed = true;
    }
  }
  return !(pair.halves[0].closed && pair.halves[1].closed);
}

void SocketBridge::run() {
  for (;;) {
    std::vector<pollfd> watched = {{wakeRead_.get(), POLLIN, 0}};
    for (const Listener& listener : listeners_) watched.push_back({listener.socket.get(), POLLIN, 0});
    std::vector<Caller*> callers;
    auto next = std::chrono::steady_clock::time_point::max();
    for (Caller& caller : callers_) {
      next = std::min(next, caller.deadline);
      if (caller.waiting) continue;
      callers.push_back(&caller);
      watched.push_back({caller.socket.get(), POLLIN, 0});
    }
    std::vector<Pair*> pairs;
    for (Pair& pair : pairs_) {
      pairs.push_back(&pair);
      for (std::size_t i = 0; i < 2; ++i) {
        const Half& in = pair.halves[i];
        const Half& out = pair.halves[1 - i];
        const bool read = in.bytes.empty() && !in.ended;
        const int events = (read ? POLLIN : 0) | (out.bytes.empty() ? 0 : POLLOUT);
        // A negative descriptor is passed over: an end that has hung up would wake us for ever.
        watched.push_back({events == 0 ? -1 : pair.ends[i].get(), static_cast<short>(events), 0});
      }
    }
    int timeout = -1;
    if (!callers_.empty()) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - std::chrono::steady_clock::now());
      timeout = static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 60'000));
    }
    if (::poll(watched.data(), static_cast<nfds_t>(watched.size()), timeout) < 0 && errno != EINTR) return;
    std::size_t index = 0;
    if (watched[index++].revents != 0) {
      std::array<char, 64> bytes;
      while (::read(wakeRead_.get(), bytes.data(), bytes.size()) > 0) {
      }
      const std::lock_guard lock(mutex_);
      if (over_) return;
    }
    std::vector<const Listener*> called;
    for (const Listener& listener : listeners_) {
      if (watched[index++].revents != 0) called.push_back(&listener);
    }
    std::vector<std::uint64_t> dropped;
    for (Caller* const caller : callers) {
      if (watched[index++].revents != 0 && !readLine(*caller)) dropped.push_back(caller->id);
    }
    std::vector<Pair*> over;
    for (Pair* const pair : pairs) {
      const bool touched = watched[index].revents != 0 || watched[index + 1].revents != 0;
      index += 2;
      if (touched && !carry(*pair)) over.push_back(pair);
    }
    const auto now = std::chrono::steady_clock::now();
    callers_.remove_if([&](const Caller& caller) {
      return caller.deadline <= now || std::find(dropped.begin(), dropped.end(), caller.id) != dropped.end();
    });
    pairs_.remove_if([&](const Pair& pair) { return std::find(over.begin(), over.end(), &pair) != over.end(); });
    for (const Listener* const listener : called) acceptAll(*listener);
    adopt();
  }
}

}  // namespace tshyve::vz
