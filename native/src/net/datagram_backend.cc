#include "net/datagram_backend.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "net/unix_socket.h"

namespace tshyve::net {
namespace {

/// A datagram has to fit the send buffer; the receive buffer is the queue.
constexpr int kSendBuffer = 1 << 20;
constexpr int kReceiveBuffer = 4 << 20;
constexpr std::size_t kBatch = 64;
/// Full buffers of the host (ENOBUFS) give no event when they empty.
constexpr std::chrono::microseconds kNoBufferDelay{100};
constexpr int kNoBufferRetries = 10;
/// Nor does the full queue of a peer that no connection leads to (unix(7)): it is tried again, ever less often.
constexpr std::chrono::microseconds kFirstRetry{50};
constexpr std::chrono::microseconds kLastRetry{20'000};

}  // namespace

DatagramBackend::DatagramBackend(EventLoop& loop, const DatagramNetwork& config, Log log, bool hello)
    : loop_(loop), config_(config), log_(std::move(log)), hello_(hello) {}

Result<std::unique_ptr<DatagramBackend>> DatagramBackend::create(EventLoop& loop, const DatagramNetwork& config,
                                                                 Log log, bool hello) {
  std::unique_ptr<DatagramBackend> backend(new DatagramBackend(loop, config, std::move(log), hello));
  TSHYVE_CHECK(backend->prepare());
  return backend;
}

DatagramBackend::~DatagramBackend() {
  if (bound_) ::unlink(config_.localPath.c_str());
}

Result<void> DatagramBackend::prepare() {
  properties_.mtu = config_.mtu;
  TSHYVE_TRY(reconnectTimer_, EventLoop::Timer::create(loop_, [this] { reconnect(); }));
  TSHYVE_TRY(retryTimer_, EventLoop::Timer::create(loop_, [this] { onRetry(); }));
  return open();
}

Result<void> DatagramBackend::open() {
  if (config_.fd >= 0) {
    socket_.reset(::fcntl(config_.fd, F_DUPFD_CLOEXEC, 3));
    const int flags = socket_ ? ::fcntl(socket_.get(), F_GETFL) : -1;
    if (flags < 0 || ::fcntl(socket_.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
      return Error::fromErrno("the datagram socket " + std::to_string(config_.fd));
    }
    int type = 0;
    socklen_t size = sizeof type;
    if (::getsockopt(socket_.get(), SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_DGRAM) {
      return Error{ErrorCode::kInvalidArgument,
                   "descriptor " + std::to_string(config_.fd) + " is not a datagram socket"};
    }
  } else {
    TSHYVE_CHECK(bindAndConnect());
  }
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_SNDBUF, &kSendBuffer, sizeof kSendBuffer);
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUF, &kReceiveBuffer, sizeof kReceiveBuffer);
  if (hello_ && ::send(socket_.get(), "VFKT", 4, MSG_NOSIGNAL) != 4) {
    return Error::fromErrno("cannot greet the network peer at " + config_.path);
  }
  TSHYVE_TRY(watch_, loop_.watch(socket_.get(), 0, [this](std::uint32_t events) { onEvents(events); }));
  connected_ = true;
  sendBlocked_ = false;
  updateInterest();
  return {};
}

Result<void> DatagramBackend::bindAndConnect() {
  TSHYVE_TRY(peer_, unixAddress(config_.path));
  TSHYVE_TRY(const sockaddr_un local, unixAddress(config_.localPath));
  socket_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket_) return Error::fromErrno("socket");
  // A second round: the name is ours already.
  if (bound_) ::unlink(config_.localPath.c_str());
  bound_ = false;
  if (::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&local), sizeof local) != 0) {
    if (errno == EADDRINUSE) {
      return Error{ErrorCode::kBusy, "there is a file at " + config_.localPath +
                                         " already, where our end of the network socket goes; remove it"};
    }
    return Error::fromErrno("cannot make the network socket " + config_.localPath);
  }
  bound_ = true;
  if (config_.connectionless) return {};
  if (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&peer_), sizeof peer_) != 0) {
    return Error::fromErrno("cannot reach the network peer at " + config_.path);
  }
  return {};
}

void DatagramBackend::onEvents(std::uint32_t events) {
  if ((events & EPOLLOUT) != 0 && sendBlocked_) {
    sendBlocked_ = false;
    updateInterest();
    if (listener() != nullptr) listener()->sendReady();
  }
  if (!connected_ || (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return;
  if ((events & EPOLLIN) != 0 && receiving_) {
    if (listener() != nullptr) listener()->framesReady();
    return;
  }
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
    int error = 0;
    socklen_t size = sizeof error;
    ::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    disconnect(error != 0 ? error : ECONNRESET);
  }
}

void DatagramBackend::disconnect(int error) {
  if (!connected_) return;
  connected_ = false;
  watch_.reset();
  socket_.reset();
  const bool again = config_.fd < 0;
  const std::string peer = again ? "at " + config_.path : "behind descriptor " + std::to_string(config_.fd);
  if (log_) {
    log_("network peer " + peer + " went away (" + std::strerror(error) + ")" + (again ? "; connecting again" : ""));
  }
  if (again) reconnectTimer_->arm(backoff_.next());
  defer(loop_, [this] {
    if (listener() != nullptr) listener()->linkChanged();
    if (std::exchange(sendBlocked_, false) && listener() != nullptr) listener()->sendReady();
  });
}

void DatagramBackend::reconnect() {
  if (connected_) return;
  const auto opened = open();
  if (!opened) {
    socket_.reset();
    reconnectTimer_->arm(backoff_.next());
    return;
  }
  backoff_.reset();
  if (log_) log_("network peer at " + config_.path + " is back");
  if (listener() != nullptr) listener()->linkChanged();
}

void DatagramBackend::onRetry() {
  if (!std::exchange(sendBlocked_, false)) return;
  updateInterest();
  if (listener() != nullptr) listener()->sendReady();
}

std::size_t DatagramBackend::send(std::span<const OutgoingFrame> frames) {
  std::size_t taken = 0;
  while (taken < frames.size()) {
    if (!connected_) {
      counters_.sendDropped += frames.size() - taken;
      return frames.size();
    }
    if (sendBlocked_) return taken;
    const auto batch = frames.subspan(taken, std::min(kBatch, frames.size() - taken));
    messages_.clear();
    for (const OutgoingFrame& frame : batch) {
      mmsghdr message{};
      // sendmmsg(2) only reads what this points to.
      message.msg_hdr.msg_iov = const_cast<iovec*>(frame.data.data());
      message.msg_hdr.msg_iovlen = frame.data.size();
      if (config_.connectionless) {
        message.msg_hdr.msg_name = &peer_;
        message.msg_hdr.msg_namelen = sizeof peer_;
      }
      messages_.push_back(message);
    }
    const int sent = ::sendmmsg(socket_.get(), messages_.data(), static_cast<unsigned>(messages_.size()), MSG_NOSIGNAL);
    if (sent > 0) {
      taken += static_cast<std::size_t>(sent);
      noBufferRetries_ = 0;
      retryDelay_ = {};
      continue;
    }
    switch (errno) {
      case EINTR:
        break;
      case ENOBUFS:
      case ENOMEM:
        if (noBufferRetries_++ < kNoBufferRetries) {
          sendBlocked_ = true;
          retryTimer_->arm(kNoBufferDelay);
          return taken;
        }
        noBufferRetries_ = 0;
        counters_.sendDropped++;
        taken++;
        break;
      case EAGAIN:
        waitForPeer();
        return taken;
      case EMSGSIZE:
        counters_.sendDropped++;
        taken++;
        break;
      default:
        if (!config_.connectionless) {
          disconnect(errno);
          break;
        }
        // Nobody is there now.
        counters_.sendDropped++;
        taken++;
    }
  }
  return taken;
}

void DatagramBackend::waitForPeer() {
  sendBlocked_ = true;
  if (config_.connectionless) {
    retryDelay_ = std::clamp(retryDelay_ * 2, kFirstRetry, kLastRetry);
    retryTimer_->arm(retryDelay_);
  }
  updateInterest();
}

std::optional<std::size_t> DatagramBackend::receive(VirtioNetHeader& header, std::span<const iovec> target) {
  header = {};
  while (connected_) {
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(target.data());
    message.msg_iovlen = target.size();
    const ssize_t count = ::recvmsg(socket_.get(), &message, 0);
    if (count < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) disconnect(errno);
      return std::nullopt;
    }
    if (static_cast<std::size_t>(count) >= kEthernetHeaderSize && (message.msg_flags & MSG_TRUNC) == 0) {
      return static_cast<std::size_t>(count);
    }
    // Some servers answer the hello; nothing shorter than an Ethernet header is a frame.
    counters_.receiveDropped++;
  }
  return std::nullopt;
}

void DatagramBackend::setReceiving(bool receiving) {
  receiving_ = receiving;
  updateInterest();
}

void DatagramBackend::updateInterest() {
  watch_.setEvents(
      (receiving_ ? static_cast<std::uint32_t>(EPOLLIN) : 0U) |
      (sendBlocked_ && noBufferRetries_ == 0 && !config_.connectionless ? static_cast<std::uint32_t>(EPOLLOUT) : 0U));
}

}  // namespace tshyve::net
