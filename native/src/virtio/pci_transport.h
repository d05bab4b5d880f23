#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/event_fd.h"
#include "base/log.h"
#include "memory/guest_memory.h"
#include "pci/config_space.h"
#include "pci/device.h"
#include "pci/msix.h"
#include "virtio/device.h"
#include "vmm/vm_services.h"

namespace tshyve::virtio {

/// Bits of the device status field (Virtual I/O Device 1.2, section 2.1).
enum Status : std::uint8_t {
  kStatusAcknowledge = 1,
  kStatusDriver = 2,
  kStatusDriverOk = 4,
  kStatusFeaturesOk = 8,
  kStatusNeedsReset = 64,
  kStatusFailed = 128,
};

/// A queue or configuration change without an interrupt vector.
constexpr std::uint16_t kNoVector = 0xffff;

/// What lies where in BAR 0 of a virtio function.
namespace pci_bar {
constexpr std::uint32_t kSize = 0x10000;
constexpr std::uint32_t kCommon = 0x0000;
constexpr std::uint32_t kCommonSize = 56;
constexpr std::uint32_t kIsr = 0x1000;
constexpr std::uint32_t kIsrSize = 1;
constexpr std::uint32_t kDevice = 0x2000;
constexpr std::uint32_t kDeviceSize = 0x1000;
constexpr std::uint32_t kNotify = 0x4000;
constexpr std::uint32_t kNotifySize = 0x1000;
constexpr std::uint32_t kNotifyMultiplier = 4;
constexpr std::uint32_t kMsixTable = 0x8000;
constexpr std::uint32_t kMsixTableSize = 0x1000;
constexpr std::uint32_t kMsixPending = 0xc000;
constexpr std::uint32_t kMsixPendingSize = 0x1000;
}  // namespace pci_bar

/// Presents a Device to the guest as a modern virtio PCI function (section 4.1): registers, queues, interrupts. It
/// carries every call to the device over to the device's event loop and holds the driver to the protocol.
///
/// Locks: register accesses hold `mutex_` and may wait for the device's loop. What the device calls on its loop
/// (DriverSignals) therefore never takes `mutex_`.
class PciTransport final : public pci::PciDevice,
                           public DriverSignals,
                           public std::enable_shared_from_this<PciTransport> {
 public:
  /// @param services and memory must outlive the transport's `detach`
  static Result<std::shared_ptr<PciTransport>> create(VmServices& services, const GuestMemory& memory,
                                                      std::shared_ptr<Device> device, Log log = {});
  PciTransport(const PciTransport&) = delete;
  PciTransport& operator=(const PciTransport&) = delete;
  ~PciTransport() override;

  [[nodiscard]] std::string_view name() const override { return device_->name(); }
  void readConfig(std::uint16_t offset, std::span<std::byte> out) override;
  void writeConfig(std::uint16_t offset, std::span<const std::byte> data) override;
  Result<void> attach(pci::BarWindow& window) override;
  void detach() override;
  void pause() override;
  void resume() override;
  void save(StateWriter& writer) override;
  Result<void> restore(StateReader& reader) override;

  /// BAR 0, at any offset and width within it.
  void readBar(std::uint64_t offset, std::span<std::byte> out);
  void writeBar(std::uint64_t offset, std::span<const std::byte> data);

  void queueInterrupt(std::uint16_t queue) override;
  void configChanged() override;
  void deviceBroken(std::string_view why) override;
  int queueKickFd(std::uint16_t queue) override;
  int queueInterruptFd(std::uint16_t queue) override;

 private:
  struct QueueSlot {
    explicit QueueSlot(EventFd event, std::uint16_t largest) : kick(std::move(event)), maxSize(largest) {
      layout.size = largest;
    }
    EventFd kick;
    const std::uint16_t maxSize;
    QueueLayout layout;
    bool enabled = false;
    std::atomic<std::uint16_t> vector{kNoVector};
    std::unique_ptr<Queue> queue;
    // The loop's own.
    EventLoop::Watch watch;
    /// The device has handed the kick to someone else (vhost).
    std::atomic<bool> external{false};
    /// The address the kick is bound to, 0 for none.
    std::uint64_t ioEvent = 0;
  };
  class Bar final : public BusDevice {
   public:
    explicit Bar(PciTransport& transport) : transport_(transport) {}
    void read(std::uint64_t offset, std::span<std::byte> data) override { transport_.readBar(offset, data); }
    void write(std::uint64_t offset, std::span<const std::byte> data) override { transport_.writeBar(offset, data); }

   private:
    PciTransport& transport_;
  };

  PciTransport(VmServices& services, const GuestMemory& memory, std::shared_ptr<Device> device, Log log);
  void addCapabilities();
  void log(const std::string& line) const;

  // All of these with mutex_ held.
  void readBarLocked(std::uint64_t offset, std::span<std::byte> out);
  void writeBarLocked(std::uint64_t offset, std::span<const std::byte> data);
  void readCommon(std::uint64_t offset, std::span<std::byte> out) const;
  void writeCommon(std::uint64_t offset, std::span<const std::byte> data);
  void writeQueueField(std::uint64_t offset, std::uint64_t value, std::size_t width);
  void writeStatus(std::uint8_t value);
  void accessThroughConfig(std::uint16_t offset, std::span<std::byte> out, std::span<const std::byte> data);
  void updateBarMapping();
  void unmapBar();
  void bindKicks();
  void unbindKicks();
  [[nodiscard]] bool active() const;
  Result<void> activate(bool restored);
  void startQueues();
  void stopAndReset();
  [[nodiscard]] QueueSlot* selectedQueue() const;
  [[nodiscard]] std::uint16_t checkedVector(std::uint64_t value) const;
  [[nodiscard]] std::uint64_t offeredFeatures() const;
  [[nodiscard]] std::uint16_t queueCount() const { return static_cast<std::uint16_t>(queues_.size()); }
  Result<void> restoreRegisters(StateReader& reader);
  Result<void> restoreQueue(QueueSlot& slot, StateReader& reader, QueuePosition& position);

  VmServices& services_;
  const GuestMemory& memory_;
  const std::shared_ptr<Device> device_;
  const Log log_;
  Bar bar_{*this};

  std::mutex mutex_;
  pci::ConfigSpace config_;
  std::uint16_t msixCapability_ = 0;
  std::uint16_t pciAccessCapability_ = 0;
  std::unique_ptr<pci::MsixTable> msix_;
  pci::BarWindow* window_ = nullptr;
  /// Where the guest reaches the BAR now, 0 when it does not.
  std::uint32_t mappedAt_ = 0;
  std::uint32_t deviceFeatureSelect_ = 0;
  std::uint32_t driverFeatureSelect_ = 0;
  std::uint64_t driverFeatures_ = 0;
  std::uint16_t queueSelect_ = 0;
  std::vector<std::unique_ptr<QueueSlot>> queues_;
  bool paused_ = false;
  bool restored_ = false;
  /// Between the device's `activate` and its `reset`.
  bool activated_ = false;

  // Also touched from the device's loop.
  std::atomic<std::uint8_t> status_{0};
  std::atomic<std::uint8_t> isr_{0};
  std::atomic<std::uint8_t> configGeneration_{0};
  std::atomic<std::uint16_t> configVector_{kNoVector};
};

}  // namespace tshyve::virtio
