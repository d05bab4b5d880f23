#include "boot/cpu_setup.h"

#include <array>

#include "boot/layout.h"

namespace tshyve::boot {
namespace {

// Selectors the boot protocol asks for: __BOOT_CS and __BOOT_DS.
constexpr std::uint16_t kCodeSelector = 0x10;
constexpr std::uint16_t kDataSelector = 0x18;
constexpr std::uint16_t kTaskSelector = 0x20;

// Segment types (Intel SDM volume 3, sections 3.4.5.1 and 3.5).
constexpr std::uint8_t kReadWriteAccessed = 0x3;
constexpr std::uint8_t kExecuteReadAccessed = 0xb;
constexpr std::uint8_t kBusyTss = 0xb;

constexpr std::uint64_t kCr0ProtectedMode = 1U << 0;
constexpr std::uint64_t kCr0ExtensionType = 1U << 4;
constexpr std::uint64_t kCr0Paging = 1U << 31;
constexpr std::uint64_t kCr4PhysicalAddressExtension = 1U << 5;
constexpr std::uint64_t kEferLongModeEnable = 1U << 8;
constexpr std::uint64_t kEferLongModeActive = 1U << 10;
/// The bit that is always set; interrupts off.
constexpr std::uint64_t kRflagsReserved = 1U << 1;

constexpr std::uint64_t kPagePresent = 1U << 0;
constexpr std::uint64_t kPageWritable = 1U << 1;
constexpr std::uint64_t kPageLarge = 1U << 7;
constexpr std::uint64_t kPage = 0x1000;
constexpr std::uint64_t kEntriesPerTable = 512;
constexpr std::uint64_t kMappedGiB = 4;

Segment codeSegment(EntryMode mode) {
  const bool longMode = mode == EntryMode::kLinux64;
  return {.limit = 0xffff'ffff,
          .selector = kCodeSelector,
          .type = kExecuteReadAccessed,
          .present = true,
          .defaultBig = !longMode,
          .longMode = longMode,
          .granularity = true};
}

Segment dataSegment() {
  return {.limit = 0xffff'ffff,
          .selector = kDataSelector,
          .type = kReadWriteAccessed,
          .present = true,
          .defaultBig = true,
          .granularity = true};
}

Segment taskSegment() {
  return {.limit = 0x67, .selector = kTaskSelector, .type = kBusyTss, .present = true, .system = true};
}

/// The 8-byte form of a segment (Intel SDM volume 3, figure 3-8); bases are all zero here.
std::uint64_t descriptor(const Segment& segment) {
  const std::uint64_t limit = segment.granularity ? segment.limit >> 12 : segment.limit;
  const std::uint64_t access = segment.type | (segment.system ? 0U : 0x10U) |
                               static_cast<std::uint64_t>(segment.privilege) << 5 | (segment.present ? 0x80U : 0U);
  const std::uint64_t flags =
      (segment.longMode ? 0x2U : 0U) | (segment.defaultBig ? 0x4U : 0U) | (segment.granularity ? 0x8U : 0U);
  return (limit & 0xffff) | access << 40 | (limit >> 16 & 0xf) << 48 | flags << 52;
}

using Gdt = std::array<std::uint64_t, 5>;

Gdt gdt(EntryMode mode) {
  return {0, 0, descriptor(codeSegment(mode)), descriptor(dataSegment()), descriptor(taskSegment())};
}
static_assert(sizeof(Gdt) > kTaskSelector);
static_assert(layout::kGdt + sizeof(Gdt) <= layout::kIdt);

constexpr std::array kBootMsrs{
    Msr{0x174, 0, true},              // IA32_SYSENTER_CS
    Msr{0x175, 0, true},              // IA32_SYSENTER_ESP
    Msr{0x176, 0, true},              // IA32_SYSENTER_EIP
    Msr{0xc000'0081, 0, true},        // IA32_STAR
    Msr{0xc000'0082, 0, true},        // IA32_LSTAR
    Msr{0xc000'0083, 0, true},        // IA32_CSTAR
    Msr{0xc000'0084, 0, true},        // IA32_FMASK
    Msr{0xc000'0102, 0, true},        // IA32_KERNEL_GS_BASE
    Msr{0x10, 0, false},              // IA32_TIME_STAMP_COUNTER
    Msr{0x1a0, 1, false},             // IA32_MISC_ENABLE: fast strings
    Msr{0x2ff, 1U << 11 | 6, false},  // IA32_MTRR_DEF_TYPE: enabled, write-back; off would mean uncached memory
};

}  // namespace

CpuState initialCpuState(const LoadedKernel& kernel) {
  CpuState state;
  state.rip = kernel.entry;
  state.rflags = kRflagsReserved;
  state.code = codeSegment(kernel.mode);
  state.data = dataSegment();
  state.task = taskSegment();
  state.gdt = {layout::kGdt, sizeof(Gdt) - 1};
  // No interrupt descriptors: interrupts are off, an exception is a triple fault.
  state.idt = {layout::kIdt, 0};
  state.cr0 = kCr0ProtectedMode | kCr0ExtensionType;
  switch (kernel.mode) {
    case EntryMode::kLinux64:
      state.rsi = kernel.parameters;
      state.rsp = layout::kBootStack;
      state.cr0 |= kCr0Paging;
      state.cr3 = layout::kPageTables.start;
      state.cr4 = kCr4PhysicalAddressExtension;
      state.efer = kEferLongModeEnable | kEferLongModeActive;
      break;
    case EntryMode::kPvh:
      state.rbx = kernel.parameters;
      break;
  }
  // As FNINIT and reset leave them (Intel SDM volume 1, sections 8.1.5 and 10.2.3).
  state.fpuControlWord = 0x37f;
  state.mxcsr = 0x1f80;
  return state;
}

Result<void> writeCpuTables(const GuestMemory& memory, EntryMode mode) {
  const Error noMemory{ErrorCode::kInvalidArgument, "the machine has no memory below 640 KiB to start a kernel with"};
  if (!memory.write(layout::kGdt, gdt(mode)) || !memory.write<std::uint64_t>(layout::kIdt, 0)) return noMemory;
  if (mode == EntryMode::kPvh) return {};

  const std::uint64_t pml4 = layout::kPageTables.start;
  const std::uint64_t pdpt = pml4 + kPage;
  const std::uint64_t directories = pdpt + kPage;
  static_assert(layout::kPageTables.size == (2 + kMappedGiB) * kPage);
  if (!memory.write(pml4, pdpt | kPagePresent | kPageWritable)) return noMemory;
  for (std::uint64_t gib = 0; gib < kMappedGiB; gib++) {
    const std::uint64_t directory = directories + gib * kPage;
    if (!memory.write(pdpt + gib * 8, directory | kPagePresent | kPageWritable)) return noMemory;
    std::array<std::uint64_t, kEntriesPerTable> entries{};
    for (std::uint64_t index = 0; index < kEntriesPerTable; index++) {
      entries[index] = gib * layout::kGiB + index * 2 * layout::kMiB + (kPagePresent | kPageWritable | kPageLarge);
    }
    if (!memory.write(directory, entries)) return noMemory;
  }
  return {};
}

std::span<const Msr> bootMsrs() { return kBootMsrs; }

}  // namespace tshyve::boot
