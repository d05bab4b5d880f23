#include "virtio/vsock/connection.h"

#include <sys/socket.h>

#include "net/iovec_copy.h"
#include "virtio/vsock/packet.h"

namespace tshyve::virtio {

void VsockConnection::updatePeerCredit(std::uint32_t allocated, std::uint32_t forwarded) {
  peerAllocated_ = allocated;
  peerForwarded_ = forwarded;
  if (peerCredit() > 0) creditAsked = false;
}

std::uint32_t VsockConnection::peerCredit() const {
  // Free-running counters; whatever a hostile guest claims, the result is just a number.
  const std::uint32_t inFlight = sentToGuest_ - peerForwarded_;
  return inFlight >= peerAllocated_ ? 0 : peerAllocated_ - inFlight;
}

std::uint32_t VsockConnection::tellForwarded() {
  toldForwarded_ = forwarded_;
  return forwarded_;
}

Result<void> VsockConnection::writeToHost(std::span<const iovec> data, std::size_t length) {
  const std::size_t kept = backlog_.size() - backlogBegin_;
  if (length > kVsockBufferBytes - kept) {
    return Error{ErrorCode::kGuest, "the guest sends more than its credit on a vsock connection"};
  }
  received_ += static_cast<std::uint32_t>(length);
  std::size_t sent = 0;
  if (kept == 0) {
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(data.data());
    message.msg_iovlen = data.size();
    ssize_t count = 0;
    do {
      count = ::sendmsg(fd(), &message, MSG_NOSIGNAL);
    } while (count < 0 && errno == EINTR);
    if (count < 0 && errno != EAGAIN) return Error::fromErrno("vsock");
    sent = static_cast<std::size_t>(std::max<ssize_t>(count, 0));
    forwarded_ += static_cast<std::uint32_t>(sent);
    if (sent == length) return {};
  }
  // The rest, from a copy: the guest may use its buffer again.
  std::vector<std::byte> copy(length);
  copy.resize(net::gather(data, copy));
  if (backlogBegin_ == backlog_.size()) {
    backlog_.clear();
    backlogBegin_ = 0;
  }
  if (sent < copy.size()) {
    backlog_.insert(backlog_.end(), copy.begin() + static_cast<std::ptrdiff_t>(sent), copy.end());
  }
  return {};
}

Result<void> VsockConnection::flush() {
  while (backlogBegin_ < backlog_.size()) {
    const ssize_t count = ::send(fd(), backlog_.data() + backlogBegin_, backlog_.size() - backlogBegin_, MSG_NOSIGNAL);
    if (count < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) break;
      return Error::fromErrno("vsock");
    }
    backlogBegin_ += static_cast<std::size_t>(count);
    forwarded_ += static_cast<std::uint32_t>(count);
  }
  if (backlogBegin_ == backlog_.size()) {
    // Most connections are idle most of the time.
    backlog_ = {};
    backlogBegin_ = 0;
    if ((guestShutdown_ & kVsockShutdownSend) != 0) endHostWrites();
  } else if (backlogBegin_ >= kVsockBufferBytes) {
    backlog_.erase(backlog_.begin(), backlog_.begin() + static_cast<std::ptrdiff_t>(backlogBegin_));
    backlogBegin_ = 0;
  }
  return {};
}

Result<std::optional<std::size_t>> VsockConnection::readFromHost(std::span<const iovec> target) {
  using Bytes = std::optional<std::size_t>;
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(target.data());
  message.msg_iovlen = target.size();
  for (;;) {
    const ssize_t count = ::recvmsg(fd(), &message, 0);
    if (count >= 0) return Bytes(static_cast<std::size_t>(count));
    if (errno == EAGAIN) return Bytes();
    if (errno != EINTR) return Error::fromErrno("vsock");
  }
}

bool VsockConnection::guestShutdown(std::uint32_t flags) {
  guestShutdown_ |= flags & kVsockShutdownBoth;
  if ((guestShutdown_ & kVsockShutdownReceive) != 0) ::shutdown(fd(), SHUT_RD);
  if ((guestShutdown_ & kVsockShutdownSend) != 0 && backlog_.size() == backlogBegin_) endHostWrites();
  return finished();
}

bool VsockConnection::finished() const {
  return guestShutdown_ == kVsockShutdownBoth && backlog_.size() == backlogBegin_;
}

bool VsockConnection::creditUpdateDue() const {
  return toldForwarded_ != forwarded_ && received_ - toldForwarded_ > kVsockBufferBytes / 2;
}

bool VsockConnection::wantsRead() const {
  return state_ == State::kEstablished && readable && !hostEnded && (guestShutdown_ & kVsockShutdownReceive) == 0;
}

void VsockConnection::endHostWrites() {
  if (!std::exchange(writesEnded_, true)) ::shutdown(fd(), SHUT_WR);
}

}  // namespace tshyve::virtio
