#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "boot/linux_loader.h"
#include "memory/guest_memory.h"

namespace tshyve::boot {

/// A segment register with its hidden part, as KVM's kvm_segment has it (Intel SDM volume 3, section 3.4.5).
struct Segment {
  std::uint64_t base = 0;
  std::uint32_t limit = 0;
  std::uint16_t selector = 0;
  std::uint8_t type = 0;
  bool present = false;
  std::uint8_t privilege = 0;
  bool defaultBig = false;  ///< D/B: 32-bit
  bool system = false;      ///< true: a TSS and the like; false: code or data (KVM's `s` is the inverse)
  bool longMode = false;    ///< L: 64-bit code
  bool granularity = false;
};

struct DescriptorTable {
  std::uint64_t base = 0;
  std::uint16_t limit = 0;
};

/// Registers of the first vCPU when it starts; those not named are zero or as after reset. The other vCPUs stay in
/// reset until the kernel sends them a startup IPI.
struct CpuState {
  std::uint64_t rip = 0;
  std::uint64_t rsp = 0;
  std::uint64_t rbx = 0;
  std::uint64_t rsi = 0;
  std::uint64_t rflags = 0;
  Segment code;
  Segment data;  ///< for DS, ES, FS, GS and SS
  Segment task;
  DescriptorTable gdt;
  DescriptorTable idt;
  std::uint64_t cr0 = 0;
  std::uint64_t cr3 = 0;
  std::uint64_t cr4 = 0;
  std::uint64_t efer = 0;
  std::uint16_t fpuControlWord = 0;
  std::uint32_t mxcsr = 0;
};

CpuState initialCpuState(const LoadedKernel& kernel);

/// Writes the GDT and, for 64-bit entry, the identity-mapping page tables `initialCpuState` refers to.
Result<void> writeCpuTables(const GuestMemory& memory, EntryMode mode);

struct Msr {
  std::uint32_t index;
  std::uint64_t value;
  /// False where a host that refuses the register can be lived with: log and skip it.
  bool required;
};

/// Model-specific registers of every vCPU at start. To be set after CPUID, since hosts ignore those the guest's CPUID
/// does not announce.
std::span<const Msr> bootMsrs();

/// As KVM's kvm_cpuid_entry2. `flags` are KVM's and pass through (1: the index counts).
struct CpuidEntry {
  std::uint32_t function = 0;
  std::uint32_t index = 0;
  std::uint32_t flags = 0;
  std::uint32_t eax = 0;
  std::uint32_t ebx = 0;
  std::uint32_t ecx = 0;
  std::uint32_t edx = 0;
};

struct CpuidOptions {
  /// Whether the in-kernel local APIC has the TSC deadline timer (KVM_CAP_TSC_DEADLINE_TIMER).
  bool tscDeadlineTimer = false;
  /// The guest's TSC frequency in kHz; 0: unknown.
  std::uint32_t tscKhz = 0;
};

/// What the guest's CPUID instruction answers on one vCPU: what host and KVM support, less what this machine does not
/// have (PMU, nesting, AMX, SGX, tracing), with its topology: one package, `count` cores, one thread each, APIC id =
/// vCPU number.
/// @param supported from KVM_GET_SUPPORTED_CPUID
/// @param cpu this vCPU, from 0
std::vector<CpuidEntry> guestCpuid(std::span<const CpuidEntry> supported, std::uint32_t cpu, std::uint32_t count,
                                   const CpuidOptions& options);

/// Width of guest-physical addresses (CPUID 0x80000008 EAX[7:0]); 36 where the list does not say.
std::uint32_t physicalAddressBits(std::span<const CpuidEntry> entries);

}  // namespace tshyve::boot
