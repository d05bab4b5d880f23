#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/log.h"
#include "boot/cpu_setup.h"
#include "bus/bus.h"
#include "devices/cmos_clock.h"
#include "devices/power_ports.h"
#include "devices/serial.h"
#include "kvm/system.h"
#include "kvm/vm.h"
#include "machine/machine.h"
#include "machine/vcpu_thread.h"
#include "memory/guest_memory.h"
#include "pci/root.h"
#include "sandbox/seccomp.h"
#include "virtio/balloon/balloon_device.h"
#include "virtio/console/console_device.h"
#include "virtio/device.h"
#include "virtio/net/net_device.h"

namespace tshyve {

/// A machine on KVM. Whoever calls, its life happens on one thread, the control loop: starting, pausing, saving and
/// ending never overlap. Devices live on other loops, so that they go on while the control loop waits for vCPUs.
class KvmMachine final : public Machine {
 public:
  static Result<std::unique_ptr<KvmMachine>> create(const MachineConfig& config, EventSink sink);
  static Result<std::unique_ptr<KvmMachine>> restore(const MachineConfig& config, const std::string& snapshotFolder,
                                                     EventSink sink);
  ~KvmMachine() override;

  Result<void> start() override;
  Result<void> pause() override;
  Result<void> resume() override;
  Result<void> pressPowerButton() override;
  void stop() override;
  Result<void> save(const std::string& snapshotFolder) override;
  Result<void> writeConsole(std::span<const std::byte> bytes) override;
  Result<std::uint16_t> addForward(std::uint32_t nic, const ForwardConfig& forward) override;
  Result<void> removeForward(std::uint32_t nic, const ForwardConfig& forward) override;
  [[nodiscard]] MachineStatistics statistics() const override;

 private:
  enum class State { kUnfinished, kBuilt, kRunning, kPaused, kEnded };

  KvmMachine(MachineConfig config, EventSink sink, kvm::System system);

  // The assembly line, in this order.
  static Result<std::unique_ptr<KvmMachine>> assemble(const MachineConfig& config, EventSink sink, int memoryFile);
  Result<void> buildMemory(int memoryFile);
  Result<void> buildLegacyDevices();
  Result<void> buildPciDevices();
  Result<void> buildVcpus();
  /// A loop of its own for a device. @param name of the thread
  Result<EventLoop*> addLoop(const std::string& name, sandbox::Role role);
  Result<void> addDisk(std::size_t index);
  Result<void> addNetwork(std::uint32_t index);
  Result<virtio::NetDevice*> network(std::uint32_t index) const;
  Result<void> addShare(std::size_t index);
  Result<void> addVirtioDevice(std::shared_ptr<virtio::Device> device);
  Result<void> boot();
  Result<void> restoreState(std::span<const std::byte> state);

  /// Runs a step of the machine's life on the control loop.
  template <typename Step>
  Result<void> onControl(const Step& step) const;
  void stopDevices();
  Result<void> startNow();
  Result<void> pauseNow();
  Result<void> resumeNow();
  Result<void> saveNow(const std::string& folder);
  void endNow(ExitReason reason, const std::string& detail);
  /// The guest's execution is over; called on vCPU threads and device loops.
  void guestEnded(ExitReason reason, std::string detail);
  [[nodiscard]] Log logger() const;

  const MachineConfig config_;
  const EventSink sink_;
  const kvm::System system_;
  // Destroyed last to first: vCPUs, then devices, then their loops (which have no thread any more), then the VM.
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<kvm::Vm> vm_;
  std::unique_ptr<EventLoop> controlLoop_;
  struct DeviceLoop {
    std::unique_ptr<EventLoop> loop;
    sandbox::Role role;
  };
  std::vector<DeviceLoop> loops_;  // the first serves every device that has none of its own
  EventLoop* userNetworkLoop_ = nullptr;
  Bus ports_;
  Bus memoryBus_;
  std::shared_ptr<Serial> serial_;
  std::shared_ptr<CmosClock> clock_;
  std::unique_ptr<InterruptLine> powerButton_;
  // The control loop's once the machine is built; gone when it has ended.
  std::vector<std::shared_ptr<virtio::Device>> devices_;
  std::vector<virtio::NetDevice*> networks_;
  virtio::BalloonDevice* balloon_ = nullptr;
  virtio::ConsoleDevice* console_ = nullptr;  // null: console input goes to the serial port
  std::unique_ptr<pci::PciRoot> pciRoot_;
  std::vector<std::unique_ptr<kvm::Vcpu>> unstartedVcpus_;
  std::vector<std::unique_ptr<VcpuThread>> vcpus_;

  State state_ = State::kUnfinished;  // the control loop's
  std::atomic<bool> ended_{false};
};

}  // namespace tshyve
