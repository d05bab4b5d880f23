#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "base/event_fd.h"
#include "memory/guest_memory.h"
#include "virtio/device.h"
#include "virtio/queue.h"

namespace tshyve::virtio::test {

/// Guest memory for tests, from address 0.
std::unique_ptr<GuestMemory> makeMemory(std::uint64_t bytes = 1 << 20,
                                        GuestMemory::Backing backing = GuestMemory::Backing::kPrivate);

/// Hands out guest memory from the bottom up; never takes it back.
class GuestAllocator {
 public:
  explicit GuestAllocator(const GuestMemory& memory, std::uint64_t start = 0x1000) : memory_(memory), next_(start) {}
  /// @return the guest address of that many zero bytes
  std::uint64_t allocate(std::uint64_t bytes, std::uint64_t alignment = 16);
  /// @return the guest address of a copy
  std::uint64_t put(std::span<const std::byte> data);
  template <typename T>
  requires(std::is_trivially_copyable_v<T> && !std::is_convertible_v<T, std::span<const std::byte>>) std::uint64_t
      put(const T& value) {
    return put(std::as_bytes(std::span(&value, 1)));
  }

 private:
  const GuestMemory& memory_;
  std::uint64_t next_;
};

/// One buffer of a chain, as the driver describes it.
struct Buffer {
  std::uint64_t address = 0;
  std::uint32_t length = 0;
  bool writable = false;
};

/// The driver's side of a split virtqueue; what Linux does, and on request what it never would.
class GuestQueue {
 public:
  struct Used {
    std::uint32_t head;
    std::uint32_t written;
  };

  /// Allocates rings of that size.
  GuestQueue(const GuestMemory& memory, GuestAllocator& allocator, std::uint16_t size);
  [[nodiscard]] const QueueLayout& layout() const { return layout_; }

  /// Offers a chain. @return its head
  std::uint16_t offer(std::span<const Buffer> buffers);
  std::uint16_t offer(std::initializer_list<Buffer> buffers) {
    return offer(std::span(buffers.begin(), buffers.size()));
  }
  /// Offers a chain that lies in an indirect table.
  std::uint16_t offerIndirect(std::initializer_list<Buffer> buffers);
  /// What the device gave back next, if anything.
  std::optional<Used> takeUsed();

  // The raw fields, for hostile drivers.
  void writeDescriptor(std::uint16_t index, std::uint64_t address, std::uint32_t length, std::uint16_t flags,
                       std::uint16_t next);
  /// Puts a head into the available ring and moves its index on.
  void offerHead(std::uint16_t head);
  void setAvailableIndex(std::uint16_t index);
  void setAvailableFlags(std::uint16_t flags);
  /// EVENT_IDX: interrupt once used.idx passes this.
  void setUsedEvent(std::uint16_t index);
  [[nodiscard]] std::uint16_t availableEvent() const;
  [[nodiscard]] std::uint16_t usedFlags() const;
  [[nodiscard]] std::uint16_t availableIndex() const { return availableIndex_; }
  [[nodiscard]] std::uint16_t usedIndex() const;

 private:
  [[nodiscard]] std::uint16_t load(std::uint64_t address) const;
  void store(std::uint64_t address, std::uint16_t value) const;
  const GuestMemory& memory_;
  GuestAllocator& allocator_;
  QueueLayout layout_;
  std::uint16_t availableIndex_ = 0;
  std::uint16_t usedIndex_ = 0;
  std::uint16_t nextDescriptor_ = 0;
};

/// Counts what a device tells its driver.
class RecordingSignals final : public DriverSignals {
 public:
  void queueInterrupt(std::uint16_t queue) override {
    if (interrupts.size() <= queue) interrupts.resize(queue + 1U);
    interrupts[queue]++;
  }
  void configChanged() override { configChanges++; }
  void deviceBroken(std::string_view why) override { broken = std::string(why); }
  int queueKickFd(std::uint16_t queue) override { return event(kicks, queue); }
  int queueInterruptFd(std::uint16_t queue) override { return event(interruptEvents, queue); }
  [[nodiscard]] std::uint64_t interruptsOf(std::uint16_t queue) const {
    return queue < interrupts.size() ? interrupts[queue] : 0;
  }

  std::vector<std::uint64_t> interrupts;
  std::uint64_t configChanges = 0;
  /// Why, once it has happened.
  std::optional<std::string> broken;
  /// By queue, once the device has asked for them.
  std::map<std::uint16_t, EventFd> kicks;
  std::map<std::uint16_t, EventFd> interruptEvents;

 private:
  static int event(std::map<std::uint16_t, EventFd>& events, std::uint16_t queue) {
    auto found = events.find(queue);
    if (found == events.end()) found = events.emplace(queue, std::move(EventFd::create().value())).first;
    return found->second.fd();
  }
};

/// A device with queues in guest memory and no transport. Give the device a loop without a thread and call the loop's
/// `runOnce` for what happens asynchronously.
class DeviceHarness {
 public:
  /// @param queueSize of every queue, cut to what the device offers
  explicit DeviceHarness(Device& device, std::uint64_t memoryBytes = 16 << 20, std::uint16_t queueSize = 128,
                         GuestMemory::Backing backing = GuestMemory::Backing::kPrivate);
  /// Resets the device.
  ~DeviceHarness();
  /// Rings are made anew, as a driver does after a reset.
  Result<void> activate(std::uint64_t features);
  Result<void> activate() { return activate(device_.features() | kFeatureVersion1); }
  /// On the device's loop.
  void notify(std::uint16_t queue);
  void reset();
  [[nodiscard]] GuestQueue& queue(std::uint16_t index) { return *guestQueues_.at(index); }
  /// The device's side of it.
  [[nodiscard]] Queue& deviceQueue(std::uint16_t index) { return *queues_.at(index); }

  std::unique_ptr<GuestMemory> memory;
  GuestAllocator allocator;
  RecordingSignals signals;

 private:
  Device& device_;
  const std::uint16_t queueSize_;
  std::vector<std::unique_ptr<GuestQueue>> guestQueues_;
  std::vector<std::unique_ptr<Queue>> queues_;
};

}  // namespace tshyve::virtio::test
