#include "kvm/vcpu.h"

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <array>
#include <cinttypes>
#include <cstdio>

namespace tshyve::kvm {
namespace {

// Local APIC registers (Intel SDM volume 3, 11.5.1) and the delivery mode field of the local vector table.
constexpr std::size_t kApicLint0 = 0x350;
constexpr std::size_t kApicLint1 = 0x360;
constexpr std::uint32_t kDeliveryModeMask = 0x700;
constexpr std::uint32_t kDeliveryNmi = 0x400;
constexpr std::uint32_t kDeliveryExtInt = 0x700;

void setDeliveryMode(kvm_lapic_state& apic, std::size_t offset, std::uint32_t mode) {
  std::uint32_t value = 0;
  std::memcpy(&value, apic.regs + offset, sizeof value);
  value = (value & ~kDeliveryModeMask) | mode;
  std::memcpy(apic.regs + offset, &value, sizeof value);
}

std::string hex(std::uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%" PRIx64, value);
  return text;
}

}  // namespace

Result<std::unique_ptr<Vcpu>> Vcpu::create(const System& system, int vmFd, std::uint32_t id) {
  UniqueFd fd(ioctlRetry(vmFd, KVM_CREATE_VCPU, static_cast<unsigned long>(id)));
  if (!fd) return Error::fromErrno("cannot create vCPU " + std::to_string(id) + " (KVM_CREATE_VCPU)");
  void* shared = ::mmap(nullptr, system.runSize(), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (shared == MAP_FAILED) return Error::fromErrno("cannot map the state of a vCPU");
  return std::unique_ptr<Vcpu>(
      new Vcpu(system, vmFd, std::move(fd), {static_cast<std::byte*>(shared), system.runSize()}, id));
}

Vcpu::~Vcpu() { ::munmap(shared_.data(), shared_.size()); }

void Vcpu::requestExit() { std::atomic_ref<std::uint8_t>(run().immediate_exit).store(1, std::memory_order_release); }

void Vcpu::clearExitRequest() {
  std::atomic_ref<std::uint8_t>(run().immediate_exit).store(0, std::memory_order_release);
}

Exit Vcpu::enter() {
  if (::ioctl(fd_.get(), KVM_RUN, 0) < 0) {
    // EAGAIN: an application processor that was just started, or is still waiting.
    if (errno == EINTR || errno == EAGAIN) return Interrupted{};
    return Failure{Error::fromErrno("KVM_RUN").message};
  }
  kvm_run& state = run();
  switch (state.exit_reason) {
    case KVM_EXIT_IO: {
      const std::size_t size = std::size_t{state.io.size} * state.io.count;
      if (state.io.data_offset > shared_.size() || size > shared_.size() - state.io.data_offset) {
        return Failure{"KVM reports port I/O outside its own page"};
      }
      return PortIo{state.io.port, state.io.direction == KVM_EXIT_IO_OUT, state.io.size,
                    shared_.subspan(state.io.data_offset, size)};
    }
    case KVM_EXIT_MMIO:
      return MemoryIo{state.mmio.phys_addr, state.mmio.is_write != 0,
                      std::as_writable_bytes(std::span(state.mmio.data, state.mmio.len))};
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return Interrupted{};
    case KVM_EXIT_HLT:
      return Halted{};
    case KVM_EXIT_SHUTDOWN:
      return TripleFault{};
    case KVM_EXIT_SYSTEM_EVENT:
      return SystemEvent{state.system_event.type};
    case KVM_EXIT_FAIL_ENTRY:
      return Failure{"the processor refuses to enter the guest (hardware reason " +
                     hex(state.fail_entry.hardware_entry_failure_reason) + ")"};
    case KVM_EXIT_INTERNAL_ERROR: {
      std::string what = "KVM cannot go on with the guest (internal error " + std::to_string(state.internal.suberror);
      // Suberror 1: an instruction KVM's emulator does not know; its bytes follow the flags and the length.
      for (std::uint32_t index = 0; index < state.internal.ndata && index < 16; index++) {
        what += (index == 0 ? ": " : " ") + hex(state.internal.data[index]);
      }
      return Failure{what + ")"};
    }
    default:
      return Failure{"KVM left the guest for an unknown reason, " + std::to_string(state.exit_reason)};
  }
}

Result<void> Vcpu::setCpuid(std::span<const kvm_cpuid_entry2> entries) {
  FlexArray<kvm_cpuid2, kvm_cpuid_entry2> list(entries);
  list.header().nent = static_cast<std::uint32_t>(entries.size());
  if (ioctlRetry(fd(), KVM_SET_CPUID2, &list.header()) < 0) return Error::fromErrno("KVM_SET_CPUID2");
  cpuid_.assign(entries.begin(), entries.end());
  return {};
}

Result<std::vector<std::uint32_t>> Vcpu::setMsrs(std::span<const kvm_msr_entry> entries) {
  std::vector<std::uint32_t> refused;
  while (!entries.empty()) {
    FlexArray<kvm_msrs, kvm_msr_entry> list(entries);
    list.header().nmsrs = static_cast<std::uint32_t>(entries.size());
    const int done = ioctlRetry(fd(), KVM_SET_MSRS, &list.header());
    if (done < 0) return Error::fromErrno("KVM_SET_MSRS");
    const auto count = static_cast<std::size_t>(done);
    if (count >= entries.size()) break;
    // KVM stops at the first register it refuses.
    refused.push_back(entries[count].index);
    entries = entries.subspan(count + 1);
  }
  return refused;
}

Result<kvm_regs> Vcpu::registers() const {
  kvm_regs registers{};
  if (ioctlRetry(fd(), KVM_GET_REGS, &registers) < 0) return Error::fromErrno("KVM_GET_REGS");
  return registers;
}

Result<void> Vcpu::setRegisters(const kvm_regs& registers) {
  kvm_regs copy = registers;
  if (ioctlRetry(fd(), KVM_SET_REGS, &copy) < 0) return Error::fromErrno("KVM_SET_REGS");
  return {};
}

Result<kvm_sregs> Vcpu::systemRegisters() const {
  kvm_sregs registers{};
  if (ioctlRetry(fd(), KVM_GET_SREGS, &registers) < 0) return Error::fromErrno("KVM_GET_SREGS");
  return registers;
}

Result<void> Vcpu::setSystemRegisters(const kvm_sregs& registers) {
  kvm_sregs copy = registers;
  if (ioctlRetry(fd(), KVM_SET_SREGS, &copy) < 0) return Error::fromErrno("KVM_SET_SREGS");
  return {};
}

Result<void> Vcpu::setFpu(const kvm_fpu& fpu) {
  kvm_fpu copy = fpu;
  if (ioctlRetry(fd(), KVM_SET_FPU, &copy) < 0) return Error::fromErrno("KVM_SET_FPU");
  return {};
}

Result<void> Vcpu::wireLocalApic() {
  kvm_lapic_state apic{};
  if (ioctlRetry(fd(), KVM_GET_LAPIC, &apic) < 0) return Error::fromErrno("KVM_GET_LAPIC");
  setDeliveryMode(apic, kApicLint0, kDeliveryExtInt);
  setDeliveryMode(apic, kApicLint1, kDeliveryNmi);
  if (ioctlRetry(fd(), KVM_SET_LAPIC, &apic) < 0) return Error::fromErrno("KVM_SET_LAPIC");
  return {};
}

void Vcpu::notePause() {
  // Fails when the guest uses no KVM clock; nothing to tell it then.
  ioctlRetry(fd(), KVM_KVMCLOCK_CTRL, 0UL);
}

std::string Vcpu::describe() const {
  const auto general = registers();
  const auto special = systemRegisters();
  std::string text = "vCPU " + std::to_string(id_) + ":";
  const auto add = [&](const char* name, std::uint64_t value) { text += std::string(" ") + name + "=" + hex(value); };
  if (general) {
    add("rip", general->rip);
    add("rflags", general->rflags);
    add("rsp", general->rsp);
    add("rax", general->rax);
    add("rbx", general->rbx);
    add("rcx", general->rcx);
    add("rdx", general->rdx);
    add("rsi", general->rsi);
    add("rdi", general->rdi);
  }
  if (special) {
    add("cs", special->cs.selector);
    add("cs.base", special->cs.base);
    add("cr0", special->cr0);
    add("cr2", special->cr2);
    add("cr3", special->cr3);
    add("cr4", special->cr4);
    add("efer", special->efer);
  }
  return text;
}

}  // namespace tshyve::kvm
