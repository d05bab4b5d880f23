#include "boot/cpu_setup.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "boot/layout.h"

namespace tshyve::boot {
namespace {

std::unique_ptr<GuestMemory> makeMemory(std::uint64_t bytes) {
  auto memory = GuestMemory::create(layout::memoryExtents(bytes), GuestMemory::Backing::kPrivate);
  EXPECT_TRUE(memory);
  return std::move(*memory);
}

/// The address a processor in long mode gets from CR3 on (Intel SDM volume 3, section 4.5); nothing on a page fault.
std::optional<std::uint64_t> translate(const GuestMemory& memory, std::uint64_t cr3, std::uint64_t address) {
  std::uint64_t table = cr3;
  for (const unsigned shift : {39U, 30U, 21U, 12U}) {
    const auto entry = memory.read<std::uint64_t>(table + (address >> shift & 511) * 8);
    if (!entry || (*entry & 3) != 3) return std::nullopt;
    const bool large = shift < 39 && (*entry & 0x80) != 0;
    if (large || shift == 12) return (*entry & ~((1ULL << shift) - 1)) | (address & ((1ULL << shift) - 1));
    table = *entry & ~0xfffULL;
  }
  return std::nullopt;
}

TEST(CpuState, LongModeMapsFourGibibytesOntoThemselves) {
  const auto memory = makeMemory(64 * layout::kMiB);
  const CpuState state = initialCpuState({EntryMode::kLinux64, 0x1000200, layout::kZeroPage});
  ASSERT_TRUE(writeCpuTables(*memory, EntryMode::kLinux64));
  for (const std::uint64_t address :
       {0ULL, 0x7000ULL, 0x1000200ULL, 0x3fffffffULL, 0x40000000ULL, 0xbfffffffULL, 0xfee00000ULL, 0xffffffffULL}) {
    EXPECT_EQ(translate(*memory, state.cr3, address), address) << std::hex << address;
  }
  EXPECT_EQ(translate(*memory, state.cr3, 0x100000000), std::nullopt);
  EXPECT_EQ(translate(*memory, state.cr3, 1ULL << 39), std::nullopt);
}

TEST(CpuState, LongModeIsWhatTheBootProtocolAsksFor) {
  const CpuState state = initialCpuState({EntryMode::kLinux64, 0x1000200, layout::kZeroPage});
  EXPECT_EQ(state.rip, 0x1000200U);
  EXPECT_EQ(state.rsi, layout::kZeroPage);
  EXPECT_EQ(state.rflags, 2U) << "interrupts are off";
  EXPECT_EQ(state.cr0, 0x80000011U) << "PG, ET, PE";
  EXPECT_EQ(state.cr4, 0x20U) << "PAE";
  EXPECT_EQ(state.efer, 0x500U) << "LMA, LME";
  EXPECT_EQ(state.code.selector, 0x10);
  EXPECT_EQ(state.data.selector, 0x18);
  EXPECT_TRUE(state.code.longMode);
  EXPECT_FALSE(state.code.defaultBig);
}

TEST(CpuState, PvhStartsInFlatProtectedMode) {
  const CpuState state = initialCpuState({EntryMode::kPvh, 0x1000100, layout::kPvhStartInfo});
  EXPECT_EQ(state.rip, 0x1000100U);
  EXPECT_EQ(state.rbx, layout::kPvhStartInfo);
  EXPECT_EQ(state.cr0, 0x11U);
  EXPECT_EQ(state.cr4, 0U);
  EXPECT_EQ(state.efer, 0U);
  EXPECT_EQ(state.code.limit, 0xffffffffU);
  EXPECT_TRUE(state.code.defaultBig);
  EXPECT_FALSE(state.code.longMode);
  EXPECT_EQ(state.task.limit, 0x67U);
  EXPECT_EQ(state.task.type, 0xb) << "busy TSS";
}

TEST(CpuState, GdtSaysWhatTheHiddenPartsSay) {
  // As Linux writes them: GDT_ENTRY(0xa09b / 0xc09b, 0xc093, 0x008b).
  const std::vector<std::pair<EntryMode, std::uint64_t>> cases{{EntryMode::kLinux64, 0x00af9b000000ffff},
                                                               {EntryMode::kPvh, 0x00cf9b000000ffff}};
  for (const auto& [mode, code] : cases) {
    const auto memory = makeMemory(64 * layout::kMiB);
    ASSERT_TRUE(writeCpuTables(*memory, mode));
    const CpuState state = initialCpuState({mode, 0, 0});
    EXPECT_EQ(memory->read<std::uint64_t>(state.gdt.base), 0U);
    EXPECT_EQ(memory->read<std::uint64_t>(state.gdt.base + state.code.selector), code);
    EXPECT_EQ(memory->read<std::uint64_t>(state.gdt.base + state.data.selector), 0x00cf93000000ffffU);
    EXPECT_EQ(memory->read<std::uint64_t>(state.gdt.base + state.task.selector), 0x00008b0000000067U);
    EXPECT_GE(state.gdt.limit, state.task.selector + 7);
    EXPECT_LT(state.gdt.base + state.gdt.limit, layout::kIdt);
  }
}

TEST(CpuState, NeedsLowMemory) {
  const GuestMemory::Extent extents[] = {{0x100000, 0x100000}};
  auto memory = GuestMemory::create(extents, GuestMemory::Backing::kPrivate);
  EXPECT_FALSE(writeCpuTables(**memory, EntryMode::kLinux64));
}

TEST(Msrs, AreDistinctAndMakeMemoryWriteBack) {
  std::set<std::uint32_t> seen;
  for (const Msr& msr : bootMsrs()) EXPECT_TRUE(seen.insert(msr.index).second) << std::hex << msr.index;
  const auto mtrr = std::ranges::find(bootMsrs(), 0x2ffU, &Msr::index);
  ASSERT_NE(mtrr, bootMsrs().end());
  EXPECT_EQ(mtrr->value, 0x806U);
  EXPECT_FALSE(mtrr->required);
}

TEST(Layout, KeepsRamAndWindowsApart) {
  for (const std::uint64_t memory :
       {layout::kMinMemory, 3 * layout::kGiB, 3 * layout::kGiB + 4096, 5 * layout::kGiB, layout::kMaxMemory}) {
    std::uint64_t total = 0;
    for (const auto& extent : layout::memoryExtents(memory)) {
      total += extent.size;
      const std::uint64_t end = extent.guestAddress + extent.size;
      EXPECT_TRUE(end <= layout::kPciWindow32.start || extent.guestAddress >= 4 * layout::kGiB);
      EXPECT_LE(end, std::max(layout::pciWindow64(memory).start, 4 * layout::kGiB));
    }
    EXPECT_EQ(total, memory);
    EXPECT_LT(layout::pciWindow64(memory).end(), 1ULL << 40);
  }
}

}  // namespace
}  // namespace tshyve::boot
