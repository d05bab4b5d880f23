#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "memory/guest_memory.h"

/// Where everything lies in the guest's physical address space, its I/O ports and its interrupt lines. The low-memory
/// addresses are those other Linux virtual machine monitors settled on, so that tools and people find what they expect.
namespace tshyve::layout {

constexpr std::uint64_t kKiB = 1ULL << 10;
constexpr std::uint64_t kMiB = 1ULL << 20;
constexpr std::uint64_t kGiB = 1ULL << 30;

struct Range {
  std::uint64_t start;
  std::uint64_t size;
  [[nodiscard]] constexpr std::uint64_t end() const { return start + size; }
};

// --- Machine limits ---

/// APIC ids are the vCPU numbers; xAPIC (8-bit ids) suffices below 255.
constexpr std::uint32_t kMaxCpus = 64;
/// A kernel is loaded at 16 MiB and needs some 60 MiB to unpack.
constexpr std::uint64_t kMinMemory = 64 * kMiB;
/// With the 64-bit PCI window above it this fits the 40 address bits of the smallest server CPUs.
constexpr std::uint64_t kMaxMemory = 512 * kGiB;

// --- RAM ---

/// RAM fills the addresses below this, then goes on at kHighMemoryStart; between them is the hole for devices.
constexpr std::uint64_t kLowMemoryEnd = 3 * kGiB;
constexpr std::uint64_t kHighMemoryStart = 4 * kGiB;

/// The pieces of RAM of a machine with this much memory.
/// @param memoryBytes whole pages
inline std::vector<GuestMemory::Extent> memoryExtents(std::uint64_t memoryBytes) {
  std::vector<GuestMemory::Extent> extents{{0, std::min(memoryBytes, kLowMemoryEnd)}};
  if (memoryBytes > kLowMemoryEnd) extents.push_back({kHighMemoryStart, memoryBytes - kLowMemoryEnd});
  return extents;
}

// --- Low memory, read by the kernel while it starts (all below 640 KiB but the tables) ---

constexpr std::uint64_t kGdt = 0x500;
constexpr std::uint64_t kIdt = 0x540;
/// hvm_start_info of the PVH boot protocol, and what it points to (Xen: public/arch-x86/hvm/start_info.h).
constexpr std::uint64_t kPvhStartInfo = 0x6000;
constexpr std::uint64_t kPvhModules = 0x6040;
constexpr std::uint64_t kPvhMemoryMap = 0x6100;
/// struct boot_params, one page (Linux: Documentation/arch/x86/zero-page.rst).
constexpr std::uint64_t kZeroPage = 0x7000;
constexpr std::uint64_t kBootStack = 0x8ff0;
/// Identity map of the first 4 GiB in 2 MiB pages: one PML4, one PDPT, four page directories.
constexpr Range kPageTables{0x9000, 6 * 0x1000};
constexpr Range kCommandLine{0x20000, 64 * kKiB};
/// What a PC has its extended BIOS data area in: RAM of ours that the kernel must leave alone up to 1 MiB.
constexpr std::uint64_t kReservedLowStart = 0x9fc00;
/// Kernels look for the MP floating pointer in the last KiB of the first 640 (MP specification 1.4, section 4).
constexpr Range kMpTable{0x9fc00, 0x1400};
/// The RSDP is searched in 0xe0000-0xfffff on 16-byte boundaries (ACPI 6.5, section 5.2.5.1); the other tables follow.
constexpr Range kAcpiTables{0xe0000, 0x10000};
/// The SMBIOS entry point is searched in 0xf0000-0xfffff (SMBIOS 3.0, section 5.2.2).
constexpr Range kSmbios{0xf0000, 0x10000};
/// Kernels load from here on.
constexpr std::uint64_t kKernelStart = kMiB;

// --- The hole below 4 GiB ---

/// 32-bit PCI BARs.
constexpr Range kPciWindow32{kLowMemoryEnd, 512 * kMiB};
/// PCI Express configuration space: 256 buses of 1 MiB, naturally aligned (PCI Express 3.0, section 7.2.2). Only bus 0
/// exists.
constexpr Range kPciEcam{0xe000'0000, 256 * kMiB};
/// Both where every PC has them (Intel 82093AA; Intel SDM volume 3, section 11.4.1). They are in the kernel's KVM.
constexpr std::uint64_t kIoApic = 0xfec0'0000;
constexpr std::uint64_t kLocalApic = 0xfee0'0000;
/// Pages KVM takes for itself on Intel hosts (KVM API: KVM_SET_IDENTITY_MAP_ADDR, KVM_SET_TSS_ADDR).
constexpr Range kKvmIdentityMap{0xfffb'c000, 0x1000};
constexpr Range kKvmTss{0xfffb'd000, 3 * 0x1000};

static_assert(kPciWindow32.end() <= kPciEcam.start && kPciEcam.start % kPciEcam.size == 0);
static_assert(kPciEcam.end() <= kIoApic && kKvmIdentityMap.end() == kKvmTss.start && kKvmTss.end() < kHighMemoryStart);

// --- Above RAM ---

/// 64-bit PCI BARs: the first GiB boundary above RAM and 4 GiB.
constexpr Range pciWindow64(std::uint64_t memoryBytes) {
  const std::uint64_t ramEnd =
      memoryBytes > kLowMemoryEnd ? kHighMemoryStart + (memoryBytes - kLowMemoryEnd) : kHighMemoryStart;
  return {(ramEnd + kGiB - 1) / kGiB * kGiB, 16 * kGiB};
}

// --- I/O ports ---

constexpr std::uint16_t kRtcPort = 0x70;
/// i8042 data; status and command are at +4. Only the reset command is known.
constexpr std::uint16_t kKeyboardPort = 0x60;
constexpr std::uint16_t kCom1Port = 0x3f8;
/// Sleep control, sleep status and reset in one byte (ACPI 6.5, section 4.8.3.7): 0x01 resets, 0x34 (SLP_EN, S5) ends.
constexpr std::uint16_t kAcpiPort = 0x600;
/// Sleep type of S5 as \_S5 says it.
constexpr std::uint8_t kSleepTypeS5 = 5;
constexpr std::uint8_t kAcpiResetValue = 0x01;
/// SLP_TYPx in bits 2-4, SLP_EN in bit 5 (ACPI 6.5, table 4.19).
constexpr std::uint8_t kAcpiPowerOffValue = (kSleepTypeS5 << 2) | 0x20;
/// PCI configuration mechanism 1: CONFIG_ADDRESS, CONFIG_DATA at +4 (PCI 3.0, section 3.2.2.3.2).
constexpr std::uint16_t kPciConfigPort = 0xcf8;

// --- Interrupt lines (GSI = pin of the IO-APIC) ---

constexpr std::uint32_t kIoApicPins = 24;
constexpr std::uint32_t kRtcGsi = 8;
constexpr std::uint32_t kCom1Gsi = 4;
/// The generic event device, edge-triggered: a pulse presses the power button. Beyond the ISA lines, whose trigger mode
/// has old defaults.
constexpr std::uint32_t kGenericEventGsi = 16;
/// Message-signalled interrupts get routes from here on.
constexpr std::uint32_t kFirstMsiGsi = kIoApicPins;

}  // namespace tshyve::layout
