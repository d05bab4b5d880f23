#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "memory/guest_memory.h"

namespace tshyve::virtio {

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
/// moment.
struct Chain {
  std::uint16_t head = 0;
  std::vector<std::span<const std::byte>> readable;
  std::vector<std::span<std::byte>> writable;

  [[nodiscard]] std::uint64_t readableBytes() const;
  [[nodiscard]] std::uint64_t writableBytes() const;
};

/// The device's side of a split virtqueue. One thread at a time.
class Queue {
 public:
  /// Checks that the rings are aligned and wholly in RAM.
  static Result<std::unique_ptr<Queue>> create(const GuestMemory& memory, const QueueLayout& layout,
                                               std::uint64_t features, QueuePosition position = {});

  /// Takes the next chain; nothing when the driver has offered none.
  /// @return an error of kind kGuest when the driver broke the protocol (index jump, loop, address outside RAM, a
  /// readable descriptor after a writable one, bad indirect table): the device is broken until it is reset
  Result<std::optional<Chain>> pop();
  /// Takes back what was popped last (no buffer fits yet).
  void undoPop();
  /// Gives a chain back. @param written bytes written into its writable part
  void push(std::uint16_t head, std::uint32_t written);
  /// True when the driver wants an interrupt for what was pushed since the last call.
  bool shouldInterrupt();
  /// Asks the driver not to notify while the device polls anyway.
  void disableNotifications();
  /// Asks for notifications again. @return true when buffers arrived meanwhile: pop again
  bool enableNotifications();
  [[nodiscard]] bool empty() const;
  [[nodiscard]] QueuePosition position() const { return position_; }
  [[nodiscard]] const QueueLayout& layout() const { return layout_; }

 private:
  Queue(const GuestMemory& memory, const QueueLayout& layout, std::uint64_t features, QueuePosition position);
  const GuestMemory& memory_;
  QueueLayout layout_;
  QueuePosition position_;
};

}  // namespace tshyve::virtio
