#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "memory/guest_memory.h"

namespace tshyve::virtio {

/// Largest queue a device may offer. One page of descriptors; Linux gains nothing from longer rings.
constexpr std::uint16_t kMaxQueueSize = 1024;

/// Most buffers in one chain. Indirect tables may be longer than the queue: Linux builds such for large requests.
constexpr std::size_t kMaxChainLength = 1024;

/// Where a split virtqueue lies (Virtual I/O Device 1.2, section 2.7).
struct QueueLayout {
  std::uint16_t size = 0;
  std::uint64_t descriptorTable = 0;
  std::uint64_t availableRing = 0;
  std::uint64_t usedRing = 0;
};

/// How far a queue has got; part of a snapshot.
struct QueuePosition {
  std::uint16_t nextAvailable = 0;
  std::uint16_t nextUsed = 0;
};

/// A descriptor chain the driver offered. The spans lie in guest memory, in bounds; their content may change at any
/// moment: copy a header out once, then look at the copy. Meant to be kept and used again, so that its memory is too.
struct Chain {
  std::uint16_t head = 0;
  std::vector<std::span<const std::byte>> readable;
  std::vector<std::span<std::byte>> writable;

  /// Fits 32 bits, as does the sum of both.
  [[nodiscard]] std::uint64_t readableBytes() const;
  [[nodiscard]] std::uint64_t writableBytes() const;
  /// Copies out of the readable part, wherever the driver split it. @return the bytes there were, at most `out.size()`
  std::size_t copyOut(std::uint64_t offset, std::span<std::byte> out) const;
  /// Copies into the writable part. @return the bytes there was room for
  std::size_t copyIn(std::uint64_t offset, std::span<const std::byte> data) const;
  /// A header from the readable part; nothing when the part is too short.
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  [[nodiscard]] std::optional<T> read(std::uint64_t offset) const {
    T value;
    if (copyOut(offset, std::as_writable_bytes(std::span(&value, 1))) != sizeof value) return std::nullopt;
    return value;
  }
  /// A header into the writable part. @return false when there is no room for all of it
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  [[nodiscard]] bool write(std::uint64_t offset, const T& value) const {
    return copyIn(offset, std::as_bytes(std::span(&value, 1))) == sizeof value;
  }
};

/// A chain the device is done with.
struct UsedChain {
  std::uint16_t head = 0;
  std::uint32_t written = 0;
};

/// The device's side of a split virtqueue. One thread at a time.
///
/// The usual shape of a device's `notify`:
///
///     for (;;) {
///       auto popped = queue.pop(chain);
///       if (!popped) return signals.deviceBroken(popped.error().message);
///       if (!*popped) break;
///       queue.push(chain.head, work(chain));
///     }
///     if (queue.shouldInterrupt()) signals.queueInterrupt(index);
class Queue {
 public:
  /// Checks that the rings are aligned and wholly in RAM.
  /// @param memory must outlive the queue
  /// @param features what driver and device agreed on; EVENT_IDX and INDIRECT_DESC matter here
  static Result<std::unique_ptr<Queue>> create(const GuestMemory& memory, const QueueLayout& layout,
                                               std::uint64_t features, QueuePosition position = {});
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  /// Takes the next chain.
  /// @return false when the driver has offered none. Unless notifications are disabled, the driver will then notify
  /// when it offers more; what arrived while we asked for that is found at once
  /// @return an error of kind kGuest when the driver broke the protocol (index jump, loop, address outside RAM, a
  /// readable descriptor after a writable one, bad indirect table): the device is broken until it is reset, and every
  /// further call fails likewise
  Result<bool> pop(Chain& chain);
  /// Takes back the last `count` pops (no buffer fits yet); their chains must not have been pushed.
  void undoPop(std::uint16_t count = 1);
  /// Gives a chain back. @param written bytes written into its writable part, from its start
  void push(std::uint16_t head, std::uint32_t written);
  /// Gives several chains back at once: the driver sees all of them or none (a network frame in merged buffers).
  void push(std::span<const UsedChain> chains);
  /// True when the driver wants an interrupt for what was pushed since the last call.
  bool shouldInterrupt();
  /// Asks the driver not to notify while the device polls anyway.
  void disableNotifications();
  /// Asks for notifications again. @return true when buffers wait already: pop again
  bool enableNotifications();
  /// True when the driver offers nothing at the moment.
  [[nodiscard]] bool empty() const;
  [[nodiscard]] QueuePosition position() const { return position_; }
  /// For data paths outside this process (vhost), which know better how far the queue has got.
  void setPosition(QueuePosition position);
  [[nodiscard]] const QueueLayout& layout() const { return layout_; }

 private:
  struct Descriptor;
  struct Rings {
    std::byte* descriptors;
    std::byte* available;
    std::byte* used;
  };
  Queue(const GuestMemory& memory, const QueueLayout& layout, Rings rings, std::uint64_t features,
        QueuePosition position);
  [[nodiscard]] std::uint16_t availableIndex() const;
  Result<bool> poll();
  Result<void> walk(Chain& chain);
  Result<void> walkIndirect(const Descriptor& table, Chain& chain, std::uint64_t& total);
  Result<void> addBuffer(const Descriptor& descriptor, Chain& chain, std::uint64_t& total);
  bool armNotification();
  Error broken(const char* why);

  const GuestMemory& memory_;
  const QueueLayout layout_;
  // Host addresses of the rings: checked once, valid as long as the memory is.
  const Rings rings_;
  const bool eventIndex_;
  const bool indirect_;
  QueuePosition position_;
  // How far the driver had got when we last looked: spares a shared cache line per chain.
  std::uint16_t seenAvailable_;
  // used.idx at the last interrupt decision.
  std::uint16_t signalledUsed_;
  bool signalledUsedKnown_;
  bool notifications_ = true;
  const char* broken_ = nullptr;
};

}  // namespace tshyve::virtio
