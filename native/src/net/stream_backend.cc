#include "net/stream_backend.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <climits>
#include <cstring>

#include "net/iovec_copy.h"
#include "net/unix_socket.h"

namespace tshyve::net {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::seconds kHandshakeTime{5};
constexpr int kSocketBuffer = 1 << 20;

std::size_t longestFrame(LengthPrefix prefix) {
  return prefix == LengthPrefix::kBigEndian32 ? kMaxFrameSize : std::size_t{UINT16_MAX};
}

/// Waits for a socket, or until the deadline has passed.
bool waitFor(int fd, short events, steady_clock::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - steady_clock::now()).count();
    if (left <= 0) return false;
    pollfd poll{fd, events, 0};
    const int ready = ::poll(&poll, 1, static_cast<int>(left));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
}

Error cutShort(const std::string& path) {
  return {ErrorCode::kHost, "VPNKit at " + path + " does not finish its handshake: is it VPNKit, and does it run?"};
}

Result<void> sendAll(int fd, std::span<const std::byte> bytes, const std::string& path,
                     steady_clock::time_point deadline) {
  while (!bytes.empty()) {
    const ssize_t count = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count > 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    } else if (errno != EINTR && (errno != EAGAIN || !waitFor(fd, POLLOUT, deadline))) {
      return cutShort(path);
    }
  }
  return {};
}

Result<std::vector<std::byte>> receiveExactly(int fd, std::size_t size, const std::string& path,
                                              steady_clock::time_point deadline) {
  std::vector<std::byte> bytes(size);
  std::size_t filled = 0;
  while (filled < size) {
    const ssize_t count = ::recv(fd, bytes.data() + filled, size - filled, 0);
    if (count > 0) {
      filled += static_cast<std::size_t>(count);
    } else if (count == 0 || (errno != EINTR && (errno != EAGAIN || !waitFor(fd, POLLIN, deadline)))) {
      return cutShort(path);
    }
  }
  return bytes;
}

}  // namespace

StreamBackend::StreamBackend(EventLoop& loop, std::string path, LengthPrefix prefix, Log log)
    : loop_(loop),
      path_(std::move(path)),
      prefix_(prefix),
      log_(std::move(log)),
      incoming_(prefix, longestFrame(prefix)) {}

Result<std::unique_ptr<StreamBackend>> StreamBackend::create(EventLoop& loop, const StreamNetwork& config, Log log) {
  std::unique_ptr<StreamBackend> backend(
      new StreamBackend(loop, config.path, LengthPrefix::kBigEndian32, std::move(log)));
  TSHYVE_CHECK(backend->prepare());
  return backend;
}

Result<std::unique_ptr<StreamBackend>> StreamBackend::create(EventLoop& loop, const VpnkitNetwork& config, Log log) {
  TSHYVE_CHECK([&]() -> Result<void> {
    TSHYVE_TRY([[maybe_unused]] const auto checked, VpnkitHandshake::create(config.uuid));
    return {};
  }());
  std::unique_ptr<StreamBackend> backend(
      new StreamBackend(loop, config.path, LengthPrefix::kLittleEndian16, std::move(log)));
  backend->uuid_ = config.uuid;
  TSHYVE_CHECK(backend->prepare());
  return backend;
}

Result<void> StreamBackend::prepare() {
  TSHYVE_TRY(timer_, EventLoop::Timer::create(loop_, [this] { reconnect(); }));
  return connect();
}

Result<void> StreamBackend::connect() {
  TSHYVE_TRY(const sockaddr_un address, unixAddress(path_));
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return Error::fromErrno("socket");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return Error::fromErrno("cannot reach the network peer at " + path_);
  }
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &kSocketBuffer, sizeof kSocketBuffer);
  socket_ = std::move(socket);
  if (!uuid_.empty()) TSHYVE_CHECK(shakeHands());
  TSHYVE_TRY(watch_, loop_.watch(socket_.get(), EPOLLIN, [this](std::uint32_t events) { onEvents(events); }));
  connected_ = true;
  sendBlocked_ = false;
  updateInterest();
  return {};
}

Result<void> StreamBackend::shakeHands() {
  const auto deadline = steady_clock::now() + kHandshakeTime;
  TSHYVE_TRY(VpnkitHandshake handshake, VpnkitHandshake::create(uuid_));
  TSHYVE_CHECK(sendAll(socket_.get(), handshake.greeting(), path_, deadline));
  while (handshake.wanted() > 0) {
    TSHYVE_TRY(const auto bytes, receiveExactly(socket_.get(), handshake.wanted(), path_, deadline));
    TSHYVE_TRY(const auto answer, handshake.feed(bytes));
    TSHYVE_CHECK(sendAll(socket_.get(), answer, path_, deadline));
  }
  const VpnkitInterface& interface = *handshake.interface();
  if (properties_.mac && *properties_.mac != interface.mac) {
    return Error{ErrorCode::kHost, "VPNKit at " + path_ + " now wants another MAC address; restart the machine"};
  }
  properties_.mac = interface.mac;
  properties_.mtu = interface.mtu;
  return {};
}

void StreamBackend::onEvents(std::uint32_t events) {
  if ((events & EPOLLOUT) != 0 && sendBlocked_ && flushBacklog()) {
    sendBlocked_ = false;
    updateInterest();
    if (listener() != nullptr) listener()->sendReady();
  }
  if (!connected_) return;
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return;
  if (!receiving_) {
    // HUP and ERR come even when nobody asks, again and again.
    if ((events & (EPOLLHUP | EPOLLERR)) != 0) disconnect("closed the connection");
    return;
  }
  if (listener() != nullptr) listener()->framesReady();
}

void StreamBackend::disconnect(const std::string& why) {
  if (!connected_) return;
  connected_ = false;
  watch_.reset();
  socket_.reset();
  incoming_.clear();
  backlog_.clear();
  if (log_) log_("network peer at " + path_ + " " + why + "; connecting again");
  timer_->arm(backoff_.next());
  // Not from here: the caller may be the device in the midst of a batch.
  defer(loop_, [this] {
    if (listener() != nullptr) listener()->linkChanged();
    // A sender that waits would wait for ever.
    if (std::exchange(sendBlocked_, false) && listener() != nullptr) listener()->sendReady();
  });
}

void StreamBackend::reconnect() {
  if (connected_) return;
  const auto connected = connect();
  if (!connected) {
    socket_.reset();
    timer_->arm(backoff_.next());
    return;
  }
  backoff_.reset();
  if (log_) log_("network peer at " + path_ + " is back");
  if (listener() != nullptr) listener()->linkChanged();
}

bool StreamBackend::flushBacklog() {
  while (!backlog_.empty()) {
    const ssize_t count = ::send(socket_.get(), backlog_.data(), backlog_.size(), MSG_NOSIGNAL);
    if (count >= 0) {
      backlog_.erase(backlog_.begin(), backlog_.begin() + count);
    } else if (errno == EAGAIN || errno == ENOBUFS) {
      return false;
    } else if (errno != EINTR) {
      disconnect(std::string("went away (") + std::strerror(errno) + ")");
      return true;
    }
  }
  return true;
}

std::size_t StreamBackend::send(std::span<const OutgoingFrame> frames) {
  std::size_t taken = 0;
  while (taken < frames.size()) {
    if (!connected_) {
      counters_.sendDropped += frames.size() - taken;
      return frames.size();
    }
    if (frames[taken].length > longestFrame(prefix_)) {
      counters_.sendDropped++;
      taken++;
      continue;
    }
    if (sendBlocked_) return taken;
    taken += sendBatch(frames.subspan(taken));
  }
  return taken;
}

std::size_t StreamBackend::sendBatch(std::span<const OutgoingFrame> frames) {
  const std::size_t prefixBytes = prefixSize(prefix_);
  parts_.clear();
  prefixes_.clear();
  prefixes_.reserve(frames.size());
  std::size_t count = 0;
  for (const OutgoingFrame& frame : frames) {
    if (frame.length > longestFrame(prefix_)) break;
    if (count > 0 && parts_.size() + frame.data.size() + 1 > IOV_MAX) break;
    prefixes_.push_back(encodePrefix(prefix_, frame.length));
    parts_.push_back({prefixes_.back().data(), prefixBytes});
    parts_.insert(parts_.end(), frame.data.begin(), frame.data.end());
    count++;
  }
  msghdr message{};
  message.msg_iov = parts_.data();
  message.msg_iovlen = parts_.size();
  ssize_t sent = 0;
  do {
    sent = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) {
    if (errno == EAGAIN || errno == ENOBUFS) {
      sendBlocked_ = true;
      updateInterest();
      return 0;
    }
    disconnect(std::string("went away (") + std::strerror(errno) + ")");
    return 0;
  }
  // Whole frames count; the rest of one that was begun is kept, since the stream cannot go back.
  auto left = static_cast<std::size_t>(sent);
  for (std::size_t index = 0; index < count; index++) {
    const std::size_t size = prefixBytes + frames[index].length;
    if (left >= size) {
      left -= size;
      continue;
    }
    sendBlocked_ = true;
    updateInterest();
    if (left == 0) return index;
    backlog_.resize(size);
    std::memcpy(backlog_.data(), prefixes_[index].data(), prefixBytes);
    gather(frames[index].data, std::span(backlog_).subspan(prefixBytes));
    backlog_.erase(backlog_.begin(), backlog_.begin() + static_cast<std::ptrdiff_t>(left));
    return index + 1;
  }
  return count;
}

bool StreamBackend::readMore() {
  for (;;) {
    const auto space = incoming_.space();
    const ssize_t count = ::recv(socket_.get(), space.data(), space.size(), 0);
    if (count > 0) {
      incoming_.filled(static_cast<std::size_t>(count));
      return true;
    }
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return false;
    disconnect(count == 0 ? "closed the connection" : std::string("went away (") + std::strerror(errno) + ")");
    return false;
  }
}

std::optional<std::size_t> StreamBackend::receive(VirtioNetHeader& header, std::span<const iovec> target) {
  header = {};
  while (connected_) {
    const auto frame = incoming_.front();
    if (!frame) {
      disconnect("is out of step (" + frame.error().message + ")");
      return std::nullopt;
    }
    if (!*frame) {
      if (!readMore()) return std::nullopt;
      continue;
    }
    const std::size_t length = (*frame)->size();
    const bool fits = length >= kEthernetHeaderSize && scatter(**frame, target);
    incoming_.pop();
    if (fits) return length;
    counters_.receiveDropped++;
  }
  return std::nullopt;
}

void StreamBackend::setReceiving(bool receiving) {
  receiving_ = receiving;
  updateInterest();
}

void StreamBackend::updateInterest() {
  watch_.setEvents((receiving_ ? static_cast<std::uint32_t>(EPOLLIN) : 0U) |
                   (sendBlocked_ ? static_cast<std::uint32_t>(EPOLLOUT) : 0U));
}

}  // namespace tshyve::net
