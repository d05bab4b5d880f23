#include "net/slirp_backend.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <ctime>

#include "net/iovec_copy.h"

namespace tshyve::net {
namespace {

/// Large packets are what makes a user-mode stack fast; the guest learns the MTU from its virtio device.
constexpr std::uint16_t kMtu = 65520;
constexpr std::size_t kMaxPacket = kMtu + kEthernetHeaderSize;
/// Frames for a guest that does not take them: enough for the TCP windows of many connections.
constexpr std::size_t kQueueBytes = 4 << 20;
/// Beyond this the host's sockets are left unread.
constexpr std::size_t kPauseBytes = 1 << 20;
/// libslirp listens with a backlog of 1, on which bursts of connections stall.
constexpr int kBacklog = 128;
constexpr int kMaxGuestErrorsLogged = 10;
/// For slirp_pollfds_poll's `select_error`.
constexpr int kSocketsToo = 0;
constexpr int kOnlyTimers = 1;
constexpr std::int64_t kNanosecondsPerMillisecond = 1'000'000;

in_addr address(const char* text) {
  in_addr parsed{};
  ::inet_pton(AF_INET, text, &parsed);
  return parsed;
}

in6_addr address6(const char* text) {
  in6_addr parsed{};
  ::inet_pton(AF_INET6, text, &parsed);
  return parsed;
}

/// True when the host has a route to the IPv6 internet; sends nothing.
bool hostHasIpv6() {
  const UniqueFd socket(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_in6 somewhere{};
  somewhere.sin6_family = AF_INET6;
  somewhere.sin6_port = htons(53);
  somewhere.sin6_addr = address6("2000::1");
  return socket && ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&somewhere), sizeof somewhere) == 0;
}

std::uint32_t toEpoll(int events) {
  std::uint32_t result = 0;
  if ((events & SLIRP_POLL_IN) != 0) result |= EPOLLIN;
  if ((events & SLIRP_POLL_OUT) != 0) result |= EPOLLOUT;
  if ((events & SLIRP_POLL_PRI) != 0) result |= EPOLLPRI;
  return result;
}

int fromEpoll(std::uint32_t events) {
  int result = 0;
  if ((events & EPOLLIN) != 0) result |= SLIRP_POLL_IN;
  if ((events & EPOLLOUT) != 0) result |= SLIRP_POLL_OUT;
  if ((events & EPOLLPRI) != 0) result |= SLIRP_POLL_PRI;
  if ((events & EPOLLERR) != 0) result |= SLIRP_POLL_ERR;
  if ((events & EPOLLHUP) != 0) result |= SLIRP_POLL_HUP;
  return result;
}

Result<sockaddr_in> hostSocketAddress(const ForwardConfig& forward, std::uint16_t port) {
  sockaddr_in host{};
  host.sin_family = AF_INET;
  host.sin_port = htons(port);
  const std::string text = forward.hostAddress.empty() ? "127.0.0.1" : forward.hostAddress;
  if (::inet_pton(AF_INET, text.c_str(), &host.sin_addr) != 1) {
    return Error{ErrorCode::kInvalidArgument,
                 "ports are forwarded from IPv4 addresses of this host; \"" + text + "\" is none"};
  }
  return host;
}

std::string describe(const ForwardConfig& forward) {
  return (forward.hostAddress.empty() ? "127.0.0.1" : forward.hostAddress) + ":" + std::to_string(forward.hostPort) +
         (forward.udp ? "/udp" : "");
}

}  // namespace

SlirpBackend::SlirpBackend(EventLoop& loop, const SlirpLibrary& library, Log log)
    : loop_(loop), library_(library), log_(std::move(log)), toGuest_(kQueueBytes), scratch_(kMaxPacket) {}

Result<std::unique_ptr<SlirpBackend>> SlirpBackend::create(EventLoop& loop, const UserNetwork& config, Log log) {
  TSHYVE_TRY(const SlirpLibrary library, SlirpLibrary::load());
  std::unique_ptr<SlirpBackend> backend(new SlirpBackend(loop, library, std::move(log)));
  TSHYVE_CHECK(backend->prepare(config));
  return backend;
}

Result<void> SlirpBackend::prepare(const UserNetwork& config) {
  properties_.mtu = kMtu;
  properties_.checksumsValid = true;
  socketSet_.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!socketSet_) return Error::fromErrno("epoll_create1");
  TSHYVE_TRY(timer_, EventLoop::Timer::create(loop_, [this] {
               timerDue_ = 0;
               handle();
             }));
  TSHYVE_TRY(socketWatch_, loop_.watch(socketSet_.get(), EPOLLIN, [this](std::uint32_t) { onSockets(); }));

  callbacks_.send_packet = sendPacket;
  callbacks_.guest_error = guestError;
  callbacks_.clock_get_ns = clockNanoseconds;
  callbacks_.timer_new_opaque = newTimer;
  callbacks_.timer_free = freeTimer;
  callbacks_.timer_mod = modifyTimer;
  callbacks_.register_poll_fd = registerFd;
  callbacks_.unregister_poll_fd = unregisterFd;
  callbacks_.notify = notify;
  SlirpConfig settings{};
  settings.version = 4;
  settings.in_enabled = true;
  settings.vnetwork = address("10.0.2.0");
  settings.vnetmask = address("255.255.255.0");
  settings.vhost = address("10.0.2.2");
  settings.vdhcp_start = address("10.0.2.15");
  settings.vnameserver = address("10.0.2.3");
  // A guest that is told of IPv6 tries it first, and waits in vain where the host has none.
  settings.in6_enabled = hostHasIpv6();
  settings.vprefix_addr6 = address6("fec0::");
  settings.vprefix_len = 64;
  settings.vhost6 = address6("fec0::2");
  settings.vnameserver6 = address6("fec0::3");
  settings.vhostname = config.hostname.empty() ? nullptr : config.hostname.c_str();
  settings.disable_dhcp = !config.dhcp;
  settings.if_mtu = kMtu;
  settings.if_mru = kMtu;
  slirp_ = library_.create(&settings, &callbacks_, this);
  if (slirp_ == nullptr) return Error{ErrorCode::kHost, "libslirp refuses to start a user-mode network"};
  refill();
  return {};
}

SlirpBackend::~SlirpBackend() {
  if (slirp_ != nullptr) library_.cleanup(slirp_);
}

std::size_t SlirpBackend::send(std::span<const OutgoingFrame> frames) {
  // libslirp learns the time only here. After a quiet spell it would give a new UDP socket a lifetime that is over.
  library_.handlePollFds(slirp_, kOnlyTimers, foundEvents, this);
  for (const OutgoingFrame& frame : frames) {
    if (frame.length > scratch_.size()) {
      counters_.sendDropped++;
      continue;
    }
    // libslirp looks at a packet more than once: it gets a copy the guest cannot change.
    const std::size_t length = gather(frame.data, scratch_);
    library_.input(slirp_, reinterpret_cast<const std::uint8_t*>(scratch_.data()), static_cast<int>(length));
  }
  handleSoon();
  return frames.size();
}

std::optional<std::size_t> SlirpBackend::receive(VirtioNetHeader& header, std::span<const iovec> target) {
  header = {};
  while (!toGuest_.empty()) {
    const auto frame = toGuest_.front();
    const std::size_t length = frame.size();
    const bool fits = scatter(frame, target);
    toGuest_.pop();
    if (socketsPaused_ && toGuest_.bytes() < kPauseBytes / 2) updateSocketInterest();
    if (fits) return length;
    counters_.receiveDropped++;
  }
  return std::nullopt;
}

void SlirpBackend::updateSocketInterest() {
  socketsPaused_ = toGuest_.bytes() >= kPauseBytes;
  socketWatch_.setEvents(socketsPaused_ ? 0 : static_cast<std::uint32_t>(EPOLLIN));
}

void SlirpBackend::onSockets() {
  std::array<epoll_event, 64> events{};
  const int count = ::epoll_wait(socketSet_.get(), events.data(), static_cast<int>(events.size()), 0);
  for (int index = 0; index < count; index++) {
    // The structure is packed: its fields must not be referred to.
    const int fd = events[static_cast<std::size_t>(index)].data.fd;
    const auto found = polledIndex_.find(fd);
    // In the set and not asked for: left by a descriptor that was closed behind our back.
    if (found == polledIndex_.end()) {
      unregisterFd(fd, this);
      continue;
    }
    polled_[found->second].revents = fromEpoll(events[static_cast<std::size_t>(index)].events);
  }
  handle();
}

void SlirpBackend::handle() {
  handlePending_ = false;
  library_.handlePollFds(slirp_, kSocketsToo, foundEvents, this);
  refill();
  if (!toGuest_.empty() && receiving_ && listener() != nullptr) listener()->framesReady();
}

void SlirpBackend::handleSoon() {
  if (std::exchange(handlePending_, true)) return;
  // What the guest sent may have opened a window, or answered the ARP request that packets wait for.
  defer(loop_, [this] { handle(); });
}

void SlirpBackend::refill() {
  polled_.clear();
  polledIndex_.clear();
  std::uint32_t timeout = UINT32_MAX;
  library_.fillPollFds(slirp_, &timeout, addPoll, this);
  for (std::size_t index = 0; index < polled_.size(); index++) {
    polledIndex_[polled_[index].fd] = index;
    updatePoll(polled_[index].fd, polled_[index].events);
  }
  // Even with no events asked for, a socket in the set would report errors and hang-ups over and over.
  for (auto entry = registered_.begin(); entry != registered_.end();) {
    if (polledIndex_.contains(entry->first)) {
      ++entry;
    } else {
      ::epoll_ctl(socketSet_.get(), EPOLL_CTL_DEL, entry->first, nullptr);
      entry = registered_.erase(entry);
    }
  }
  if (socketsPaused_ != (toGuest_.bytes() >= kPauseBytes)) updateSocketInterest();
  if (timeout == UINT32_MAX) return;
  // Firing too early is harmless, so an earlier deadline stays.
  const std::int64_t due = clockNanoseconds(this) + std::int64_t{timeout} * kNanosecondsPerMillisecond;
  if (timerDue_ != 0 && timerDue_ <= due) return;
  timerDue_ = due;
  timer_->arm(std::chrono::milliseconds(timeout));
}

void SlirpBackend::updatePoll(int fd, int events) {
  const std::uint32_t wanted = toEpoll(events);
  const auto found = registered_.find(fd);
  if (found != registered_.end() && found->second == wanted) return;
  epoll_event event{};
  event.events = wanted;
  event.data.fd = fd;
  if (found == registered_.end() || ::epoll_ctl(socketSet_.get(), EPOLL_CTL_MOD, fd, &event) != 0) {
    if (::epoll_ctl(socketSet_.get(), EPOLL_CTL_ADD, fd, &event) != 0 && errno == EEXIST) {
      ::epoll_ctl(socketSet_.get(), EPOLL_CTL_MOD, fd, &event);
    }
  }
  registered_[fd] = wanted;
}

std::vector<int> SlirpBackend::polledFds() {
  refill();
  std::vector<int> fds;
  for (const Polled& polled : polled_) fds.push_back(polled.fd);
  return fds;
}

Result<std::uint16_t> SlirpBackend::addForward(const ForwardConfig& forward) {
  if (forward.guestPort == 0) return Error{ErrorCode::kInvalidArgument, "a forward needs a port of the guest"};
  TSHYVE_TRY(const sockaddr_in host, hostSocketAddress(forward, forward.hostPort));
  sockaddr_in guest{};
  guest.sin_family = AF_INET;
  // Left open, libslirp takes the first address its DHCP server gives.
  if (!forward.guestAddress.empty() && ::inet_pton(AF_INET, forward.guestAddress.c_str(), &guest.sin_addr) != 1) {
    return Error{ErrorCode::kInvalidArgument, "\"" + forward.guestAddress + "\" is no IPv4 address of a guest"};
  }
  guest.sin_port = htons(forward.guestPort);
  const std::vector<int> before = polledFds();
  if (library_.addForward(slirp_, reinterpret_cast<const sockaddr*>(&host), sizeof host,
                          reinterpret_cast<const sockaddr*>(&guest), sizeof guest,
                          forward.udp ? SLIRP_HOSTFWD_UDP : 0) != 0) {
    if (errno == EADDRINUSE) {
      return Error{ErrorCode::kBusy, "port " + describe(forward) + " of this host is in use; choose another or 0"};
    }
    if (errno == EACCES) {
      return Error{ErrorCode::kPermission,
                   "port " + describe(forward) + " of this host is privileged; choose one of 1024 or more"};
    }
    return Error::fromErrno("cannot forward from " + describe(forward));
  }
  // libslirp does not say which socket it made: the one that was not there before.
  for (const int fd : polledFds()) {
    if (std::find(before.begin(), before.end(), fd) != before.end()) continue;
    sockaddr_in bound{};
    socklen_t size = sizeof bound;
    int type = 0;
    socklen_t typeSize = sizeof type;
    if (::getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) != 0 || bound.sin_family != AF_INET ||
        ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &typeSize) != 0) {
      continue;
    }
    const bool sameKind = (type == SOCK_DGRAM) == forward.udp && bound.sin_addr.s_addr == host.sin_addr.s_addr;
    if (!sameKind || (forward.hostPort != 0 && bound.sin_port != host.sin_port)) continue;
    if (!forward.udp) ::listen(fd, kBacklog);
    forwards_.push_back({forward, ntohs(bound.sin_port)});
    return ntohs(bound.sin_port);
  }
  return Error{ErrorCode::kHost, "libslirp does not show the socket of the forward from " + describe(forward)};
}

Result<void> SlirpBackend::removeForward(const ForwardConfig& forward) {
  const auto found = std::find_if(forwards_.begin(), forwards_.end(), [&](const ActiveForward& active) {
    return active.asked.hostAddress == forward.hostAddress && active.asked.udp == forward.udp &&
           (active.port == forward.hostPort ||
            (forward.hostPort == active.asked.hostPort && forward.guestPort == active.asked.guestPort));
  });
  if (found == forwards_.end()) {
    return Error{ErrorCode::kNotFound, "there is no forward from " + describe(forward)};
  }
  TSHYVE_TRY(const sockaddr_in host, hostSocketAddress(forward, found->port));
  const int removed = library_.removeForward(slirp_, reinterpret_cast<const sockaddr*>(&host), sizeof host,
                                             forward.udp ? SLIRP_HOSTFWD_UDP : 0);
  forwards_.erase(found);
  refill();
  if (removed != 0) return Error{ErrorCode::kNotFound, "there is no forward from " + describe(forward)};
  return {};
}

ssize_t SlirpBackend::sendPacket(const void* buffer, std::size_t length, void* opaque) {
  auto* self = static_cast<SlirpBackend*>(opaque);
  if (!self->toGuest_.push({static_cast<const std::byte*>(buffer), length})) self->counters_.receiveDropped++;
  return static_cast<ssize_t>(length);
}

void SlirpBackend::guestError(const char* message, void* opaque) {
  auto* self = static_cast<SlirpBackend*>(opaque);
  if (self->log_ && self->guestErrorsLogged_++ < kMaxGuestErrorsLogged) {
    self->log_(std::string("user-mode network: ") + message);
  }
}

std::int64_t SlirpBackend::clockNanoseconds(void* /*opaque*/) {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

void* SlirpBackend::newTimer(SlirpTimerId id, void* timerOpaque, void* opaque) {
  auto* self = static_cast<SlirpBackend*>(opaque);
  auto created = EventLoop::Timer::create(self->loop_, [self, id, timerOpaque] {
    self->library_.handleTimer(self->slirp_, id, timerOpaque);
    self->handleSoon();
  });
  // Without descriptors there are no router advertisements; nothing else uses these timers.
  auto timer = std::make_unique<LibraryTimer>();
  if (created) timer->timer = std::move(*created);
  self->libraryTimers_.push_back(std::move(timer));
  return self->libraryTimers_.back().get();
}

void SlirpBackend::freeTimer(void* timer, void* opaque) {
  auto* self = static_cast<SlirpBackend*>(opaque);
  std::erase_if(self->libraryTimers_, [&](const auto& entry) { return entry.get() == timer; });
}

void SlirpBackend::modifyTimer(void* timer, std::int64_t expireMilliseconds, void* opaque) {
  auto* entry = static_cast<LibraryTimer*>(timer);
  if (!entry->timer) return;
  const std::int64_t now = clockNanoseconds(opaque) / kNanosecondsPerMillisecond;
  entry->timer->arm(std::chrono::milliseconds(std::max<std::int64_t>(expireMilliseconds - now, 0)));
}

void SlirpBackend::registerFd(int /*fd*/, void* /*opaque*/) {}

void SlirpBackend::unregisterFd(int fd, void* opaque) {
  auto* self = static_cast<SlirpBackend*>(opaque);
  // About to be closed; the number may come back as another socket at once.
  ::epoll_ctl(self->socketSet_.get(), EPOLL_CTL_DEL, fd, nullptr);
  self->registered_.erase(fd);
}

void SlirpBackend::notify(void* opaque) { static_cast<SlirpBackend*>(opaque)->handleSoon(); }

int SlirpBackend::addPoll(int fd, int events, void* opaque) {
  auto* self = static_cast<SlirpBackend*>(opaque);
  self->polled_.push_back({fd, events, 0});
  return static_cast<int>(self->polled_.size()) - 1;
}

int SlirpBackend::foundEvents(int index, void* opaque) {
  auto* self = static_cast<SlirpBackend*>(opaque);
  if (index < 0 || static_cast<std::size_t>(index) >= self->polled_.size()) return 0;
  return std::exchange(self->polled_[static_cast<std::size_t>(index)].revents, 0);
}

}  // namespace tshyve::net
