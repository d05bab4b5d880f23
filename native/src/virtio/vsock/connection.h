#pragma once

#include <sys/uio.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace tshyve::virtio {

/// How much the guest may send before we have passed it on; also the most that is kept for a slow host program.
constexpr std::uint32_t kVsockBufferBytes = 256 * 1024;

/// One stream between a guest port and a socket of the host: the credit of both directions (Virtual I/O Device 1.2,
/// section 5.10.6.3), what waits for the socket, and who has stopped sending.
class VsockConnection {
 public:
  enum class State {
    kRequested,    ///< the guest has not answered our request
    kEstablished,  ///< possibly half closed
    kClosing,      ///< the guest was told that all is over, and is to confirm it
  };
  /// Something to be said to the guest when it has a buffer for it.
  enum Pending : unsigned {
    kPendingRequest = 1,
    kPendingResponse = 2,
    kPendingReset = 4,
    kPendingShutdown = 8,
    kPendingCreditUpdate = 16,
    kPendingCreditRequest = 32,
  };
  struct Key {
    std::uint32_t hostPort = 0;
    std::uint32_t guestPort = 0;
    auto operator<=>(const Key&) const = default;
  };

  VsockConnection(Key key, UniqueFd socket, State state) : key_(key), socket_(std::move(socket)), state_(state) {}
  VsockConnection(const VsockConnection&) = delete;
  VsockConnection& operator=(const VsockConnection&) = delete;
  /// The watch goes before the socket it watches.
  ~VsockConnection() { watch.reset(); }

  [[nodiscard]] const Key& key() const { return key_; }
  [[nodiscard]] int fd() const { return socket_.get(); }
  [[nodiscard]] State state() const { return state_; }
  void setState(State state) { state_ = state; }

  /// Takes over what every packet of the guest's says about its buffer.
  void updatePeerCredit(std::uint32_t allocated, std::uint32_t forwarded);
  /// How many bytes the guest takes now.
  [[nodiscard]] std::uint32_t peerCredit() const;
  /// For the header of every packet to the guest; marks the credit as told.
  std::uint32_t tellForwarded();

  /// Passes data from the guest on to the socket, or keeps it.
  /// @return kGuest when the guest sends more than its credit, kHost when the socket's other end is gone
  Result<void> writeToHost(std::span<const iovec> data, std::size_t length);
  /// The socket takes data again.
  Result<void> flush();
  /// Reads into the target. @return bytes, 0 at the end of the stream; nothing when there is nothing now
  Result<std::optional<std::size_t>> readFromHost(std::span<const iovec> target);
  /// Bytes passed to the guest count against its credit.
  void sentToGuest(std::uint32_t bytes) { sentToGuest_ += bytes; }

  /// The guest said what it will not do any more. @return true when nothing is left to do: the end can be confirmed
  bool guestShutdown(std::uint32_t flags);
  /// True when the guest has ended both directions and all its data has been passed on.
  [[nodiscard]] bool finished() const;

  /// Worth a packet to the guest: it believes our buffer to be more than half full, and it is not.
  [[nodiscard]] bool creditUpdateDue() const;
  [[nodiscard]] bool wantsRead() const;

  unsigned pending = 0;
  /// In the device's list of those with something for the guest.
  bool queued = false;
  /// The socket has, or may have, something to read.
  bool readable = false;
  /// The host program will send no more.
  bool hostEnded = false;
  /// ... nor read any more.
  bool hostClosed = false;
  bool creditAsked = false;
  /// It waits for an answer to CONNECT.
  bool acknowledge = false;
  std::optional<std::chrono::steady_clock::time_point> deadline;
  EventLoop::Watch watch;

 private:
  void endHostWrites();

  Key key_;
  UniqueFd socket_;
  State state_;
  std::uint32_t peerAllocated_ = 0;
  std::uint32_t peerForwarded_ = 0;
  std::uint32_t sentToGuest_ = 0;
  std::uint32_t received_ = 0;
  std::uint32_t forwarded_ = 0;
  std::uint32_t toldForwarded_ = 0;
  std::uint32_t guestShutdown_ = 0;
  bool writesEnded_ = false;
  std::vector<std::byte> backlog_;
  std::size_t backlogBegin_ = 0;
};

}  // namespace tshyve::virtio
