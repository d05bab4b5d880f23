#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "memory/guest_memory.h"
#include "virtio/queue.h"

namespace tshyve::virtio {

/// Our end of the vhost-user protocol (QEMU: docs/interop/vhost-user.rst): another process does a device's data path,
/// with the guest's memory and queues mapped. It may do to the guest what it likes, and nothing to us: replies are
/// checked, and waited for no longer than a deadline. One thread.
class VhostUserConnection {
 public:
  /// A ring to be served.
  struct Ring {
    std::uint16_t index;
    QueueLayout layout;
    std::uint16_t nextAvailable;
    int kickFd;
    /// -1: the driver polls.
    int interruptFd;
  };

  /// Takes over a connected unix stream socket and agrees on features.
  /// @param peer what messages call the other end
  static Result<std::unique_ptr<VhostUserConnection>> open(UniqueFd socket, std::string peer);
  VhostUserConnection(const VhostUserConnection&) = delete;
  VhostUserConnection& operator=(const VhostUserConnection&) = delete;

  [[nodiscard]] int fd() const { return socket_.get(); }
  /// What the peer can offer a driver.
  [[nodiscard]] std::uint64_t features() const { return features_ & ~kProtocolFeatures; }

  /// @param features what the driver took
  Result<void> configure(const GuestMemory& memory, std::uint64_t features);
  Result<void> startRing(const Ring& ring);
  /// When it returns, the peer has finished with the ring. @return the ring's next available index
  Result<std::uint16_t> stopRing(std::uint16_t index);

 private:
  enum class Request : std::uint32_t {
    kGetFeatures = 1,
    kSetFeatures = 2,
    kSetOwner = 3,
    kSetMemoryTable = 5,
    kSetRingSize = 8,
    kSetRingAddress = 9,
    kSetRingBase = 10,
    kGetRingBase = 11,
    kSetRingKick = 12,
    kSetRingCall = 13,
    kGetProtocolFeatures = 15,
    kSetProtocolFeatures = 16,
    kSetRingEnable = 18,
  };
  /// VHOST_USER_F_PROTOCOL_FEATURES among the virtio features.
  static constexpr std::uint64_t kProtocolFeatures = 1ULL << 30;
  static constexpr std::size_t kMaxRegions = 8;

  VhostUserConnection(UniqueFd socket, std::string peer) : socket_(std::move(socket)), peer_(std::move(peer)) {}
  Result<void> negotiate();
  /// A request whose reply is no more than a confirmation, where the peer gives such.
  Result<void> tell(Request request, std::span<const std::byte> payload, std::span<const int> fds = {});
  template <typename T>
  Result<void> tell(Request request, const T& payload, std::span<const int> fds = {}) {
    return tell(request, std::as_bytes(std::span(&payload, 1)), fds);
  }
  /// A request whose reply has a payload of this size.
  Result<void> ask(Request request, std::span<const std::byte> payload, std::span<std::byte> reply);
  Result<std::uint64_t> askNumber(Request request);
  Result<void> send(Request request, std::uint32_t flags, std::span<const std::byte> payload, std::span<const int> fds);
  Result<void> receiveReply(Request request, std::span<std::byte> payload);
  Result<void> receiveAll(std::span<std::byte> out);
  [[nodiscard]] Error failed(const std::string& what) const;

  UniqueFd socket_;
  std::string peer_;
  std::uint64_t features_ = 0;
  bool confirms_ = false;
  bool enablesRings_ = false;
};

/// Connects to a unix stream socket.
Result<UniqueFd> connectUnix(const std::string& path);

}  // namespace tshyve::virtio
