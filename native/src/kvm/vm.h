#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/state_stream.h"
#include "base/unique_fd.h"
#include "kvm/system.h"
#include "kvm/vcpu.h"
#include "memory/guest_memory.h"
#include "vmm/vm_services.h"

namespace tshyve::kvm {

/// A KVM virtual machine: memory slots, the in-kernel interrupt controllers (two 8259, IO-APIC, one LAPIC per vCPU),
/// interrupt routing and I/O events. Everything made here must be gone before the Vm.
class Vm final : public VmServices {
 public:
  /// @param memory becomes the guest's RAM and must outlive the Vm
  static Result<std::unique_ptr<Vm>> create(const System& system, const GuestMemory& memory);
  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;
  ~Vm() override = default;

  /// @param id is the vCPU's APIC id too
  Result<std::unique_ptr<Vcpu>> createVcpu(std::uint32_t id);

  Result<std::unique_ptr<MsiVector>> createMsiVector() override;
  Result<std::unique_ptr<InterruptLine>> interruptLine(std::uint32_t gsi) override;
  Result<void> addIoEvent(IoSpace space, std::uint64_t address, int eventFd) override;
  void removeIoEvent(IoSpace space, std::uint64_t address, int eventFd) override;

  /// Interrupt controllers and the paravirtual clock. Only while no vCPU runs.
  Result<void> save(StateWriter& writer) const;
  Result<void> restore(StateReader& reader);

  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  friend class KvmMsiVector;
  Vm(const System& system, UniqueFd fd) : system_(system), fd_(std::move(fd)) {}
  Result<void> maskPics();
  Result<void> addMemory(const GuestMemory& memory);
  Result<std::uint32_t> allocateGsi();
  void releaseGsi(std::uint32_t gsi);
  /// Points a GSI to a message; the kernel takes the whole table each time.
  Result<void> setMsiRoute(std::uint32_t gsi, std::uint64_t address, std::uint32_t data);
  Result<void> sendRoutes();  // with routesMutex_ held

  struct MsiRoute {
    bool taken = false;
    bool set = false;
    std::uint64_t address = 0;
    std::uint32_t data = 0;
  };
  const System& system_;
  UniqueFd fd_;
  std::mutex routesMutex_;
  std::vector<MsiRoute> msiRoutes_;  // guarded by routesMutex_; index 0 is the first GSI beyond the IO-APIC
};

}  // namespace tshyve::kvm
