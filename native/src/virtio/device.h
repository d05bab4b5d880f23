#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/state_stream.h"
#include "memory/guest_memory.h"
#include "virtio/features.h"
#include "virtio/queue.h"

namespace tshyve::virtio {

/// Device types (Virtual I/O Device 1.2, section 5).
enum class DeviceType : std::uint16_t {
  kNet = 1,
  kBlock = 2,
  kConsole = 3,
  kEntropy = 4,
  kBalloon = 5,
  kVsock = 19,
  kFileSystem = 26,
};

/// How a device reaches its driver; the transport's. Any thread.
class DriverSignals {
 public:
  virtual ~DriverSignals() = default;
  /// Buffers of this queue were used. The device has checked `Queue::shouldInterrupt`.
  virtual void queueInterrupt(std::uint16_t queue) = 0;
  /// The device's configuration has changed: bumps the generation and interrupts.
  virtual void configChanged() = 0;
  /// The driver broke the protocol: sets DEVICE_NEEDS_RESET (section 2.1.2). The device stops looking at its queues.
  virtual void deviceBroken(std::string_view why) = 0;
  /// For data paths outside this process (vhost, vhost-user): signalled by the driver when it offers buffers. From the
  /// first call until `reset` the device is not notified of this queue any more. On the device's loop.
  [[nodiscard]] virtual int queueKickFd(std::uint16_t queue) = 0;
  /// ... and to be signalled when buffers were used; -1 when the driver has set no vector.
  [[nodiscard]] virtual int queueInterruptFd(std::uint16_t queue) = 0;
};

/// What a device gets when its driver is ready (DRIVER_OK).
struct Activation {
  const GuestMemory& memory;
  /// One per queue of the device; null where the driver did not enable the queue. The transport owns them: they live
  /// until `reset` returns.
  std::vector<Queue*> queues;
  /// What device and driver agreed on.
  std::uint64_t features;
  DriverSignals& signals;
};

/// A virtio device without its transport. All calls but the constant ones come on the device's own event loop; the
/// transport sees to that. Nothing the guest writes is trusted.
class Device {
 public:
  virtual ~Device() = default;

  // Constant for the device's life, any thread.
  [[nodiscard]] virtual DeviceType type() const = 0;
  /// For logs, thread names and snapshot sections, e.g. `block-data`.
  [[nodiscard]] virtual std::string_view name() const = 0;
  /// Device-type features plus those of section 6 the device supports; VERSION_1 is added by the transport.
  [[nodiscard]] virtual std::uint64_t features() const = 0;
  /// Largest size of each queue: powers of two.
  [[nodiscard]] virtual std::span<const std::uint16_t> queueSizes() const = 0;
  [[nodiscard]] virtual EventLoop& loop() = 0;

  /// Fills `data` from the device's configuration structure; bytes beyond its end are zero.
  virtual void readConfig(std::uint32_t offset, std::span<std::byte> data) = 0;
  virtual void writeConfig(std::uint32_t offset, std::span<const std::byte> data) = 0;

  /// Every enabled queue is notified after it: the driver may have offered buffers before.
  virtual Result<void> activate(Activation activation) = 0;
  /// The driver offered buffers in this queue. Only between activate and reset.
  virtual void notify(std::uint16_t queue) = 0;
  /// Returns when no request touches guest memory or the queues any more. Also comes without an activation before.
  virtual void reset() = 0;

  /// Stops taking requests and finishes those under way, so that the state can be saved. No `notify` comes until
  /// `resume`. A restored device is paused before it is activated: it must not start on its own then.
  virtual void pause() = 0;
  /// Every enabled queue is notified after it.
  virtual void resume() = 0;
  /// State beyond what the transport saves (features, queue positions, configuration written by the driver).
  virtual void save(StateWriter& writer) const = 0;
  /// Called before `activate` when a snapshot is restored.
  virtual Result<void> restore(StateReader& reader) = 0;
};

}  // namespace tshyve::virtio
