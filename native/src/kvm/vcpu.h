#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "base/state_stream.h"
#include "base/unique_fd.h"
#include "kvm/system.h"

namespace tshyve::kvm {

/// Why a vCPU left the guest.
struct PortIo {
  std::uint16_t port;
  bool write;
  std::uint8_t width;         ///< 1, 2 or 4
  std::span<std::byte> data;  ///< width bytes for each repetition
};
struct MemoryIo {
  std::uint64_t address;
  bool write;
  std::span<std::byte> data;  ///< 1 to 8 bytes
};
struct Interrupted {};  ///< a kick, or the vCPU has yet to be started: enter again
struct Halted {};       ///< only without an in-kernel interrupt controller
struct TripleFault {};
/// The kernel asks for the machine's end; type is a KVM_SYSTEM_EVENT_*.
struct SystemEvent {
  std::uint32_t type;
};
/// KVM cannot go on with this vCPU.
struct Failure {
  std::string what;
};
using Exit = std::variant<PortIo, MemoryIo, Interrupted, Halted, TripleFault, SystemEvent, Failure>;

/// A virtual processor. One thread uses it at a time, only `requestExit` is for others.
class Vcpu {
 public:
  static Result<std::unique_ptr<Vcpu>> create(const System& system, int vmFd, std::uint32_t id);
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;
  ~Vcpu();

  /// Runs guest code until the guest needs us. What a read exit put into its data goes to the guest at the next call.
  Exit enter();
  /// Makes the present or the next `enter` return `Interrupted`; pending reads and writes are completed first. The
  /// caller follows up with a signal, in case the vCPU is in the guest. Any thread.
  void requestExit();
  /// Forgets `requestExit`.
  void clearExitRequest();

  Result<void> setCpuid(std::span<const kvm_cpuid_entry2> entries);
  /// @return the registers this host refused
  Result<std::vector<std::uint32_t>> setMsrs(std::span<const kvm_msr_entry> entries);
  Result<kvm_regs> registers() const;
  Result<void> setRegisters(const kvm_regs& registers);
  Result<kvm_sregs> systemRegisters() const;
  Result<void> setSystemRegisters(const kvm_sregs& registers);
  Result<void> setFpu(const kvm_fpu& fpu);
  /// LINT0 takes the 8259's interrupts, LINT1 is NMI (MultiProcessor Specification 1.4, 3.6.2.2).
  Result<void> wireLocalApic();

  /// Tells a guest with a KVM clock that it was paused, so that its lock-up watchdogs do not bark.
  void notePause();

  /// Complete processor state; CPUID included. Only while the vCPU is out of the guest with nothing pending.
  Result<void> save(StateWriter& writer) const;
  Result<void> restore(StateReader& reader);

  /// Registers as text, for a failure's message.
  [[nodiscard]] std::string describe() const;
  [[nodiscard]] std::uint32_t id() const { return id_; }
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  Vcpu(const System& system, int vmFd, UniqueFd fd, std::span<std::byte> shared, std::uint32_t id)
      : system_(system), vmFd_(vmFd), fd_(std::move(fd)), shared_(shared), id_(id) {}
  [[nodiscard]] kvm_run& run() const { return *reinterpret_cast<kvm_run*>(shared_.data()); }
  /// Bytes of the XSAVE area; KVM_CAP_XSAVE2 makes it larger than 4 KiB.
  [[nodiscard]] std::size_t xsaveSize() const;

  const System& system_;
  const int vmFd_;
  UniqueFd fd_;
  std::span<std::byte> shared_;
  const std::uint32_t id_;
  std::vector<kvm_cpuid_entry2> cpuid_;
};

}  // namespace tshyve::kvm
