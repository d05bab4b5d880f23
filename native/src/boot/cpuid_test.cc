#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <set>

#include "boot/cpu_setup.h"

namespace tshyve::boot {
namespace {

constexpr std::uint32_t kAll = 0xffff'ffff;

std::optional<CpuidEntry> find(const std::vector<CpuidEntry>& entries, std::uint32_t function,
                               std::uint32_t index = 0) {
  const auto matches = [&](const CpuidEntry& e) { return e.function == function && e.index == index; };
  EXPECT_LE(std::ranges::count_if(entries, matches), 1) << std::hex << function << "." << index << " is there twice";
  const auto found = std::ranges::find_if(entries, matches);
  return found == entries.end() ? std::nullopt : std::optional(*found);
}

/// A host that has every feature of the leaves we look at.
std::vector<CpuidEntry> generousHost() {
  std::vector<CpuidEntry> list{
      {0x0, 0, 0, 0x20, 0x756e6547, 0x6c65746e, 0x49656e69},
      {0x1, 0, 0, 0x000806f8, kAll, kAll, kAll},
      {0x4, 0, 1, 0xfc004121, 0, 0, 0},  // data, level 1
      {0x4, 1, 1, 0xfc004122, 0, 0, 0},  // instructions, level 1
      {0x4, 2, 1, 0xfc004143, 0, 0, 0},  // unified, level 2
      {0x4, 3, 1, 0xfc1fc163, 0, 0, 0},  // unified, level 3
      {0x4, 4, 1, 0, 0, 0, 0},
      {0x6, 0, 0, 4, 0, kAll, 0},
      {0x7, 0, 1, 1, kAll, kAll, kAll},
      {0x7, 1, 1, kAll, 0, 0, kAll},
      {0xa, 0, 0, kAll, kAll, kAll, kAll},
      {0xb, 0, 1, 1, 2, 0x100, 77},
      {0xd, 0, 1, 0x000602e7, 0x240, 11008, 0},
      {0xd, 1, 1, 0x1f, 0, 0, 0},
      {0xd, 2, 1, 256, 576, 0, 0},
      {0xd, 5, 1, 64, 1088, 0, 0},
      {0xd, 6, 1, 512, 1152, 0, 0},
      {0xd, 7, 1, 1024, 1664, 0, 0},
      {0xd, 9, 1, 8, 2688, 0, 0},
      {0xd, 11, 1, 16, 0, 1, 0},  // supervisor state has no place in the area
      {0xd, 17, 1, 64, 2752, 2, 0},
      {0xd, 18, 1, 8192, 2816, 6, 0},
      {0x1d, 0, 1, 1, 0, 0, 0},
      {0x1f, 0, 1, 1, 2, 0x100, 77},
      {0x40000000, 0, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d},
      {0x40000001, 0, 0, 0x01007afb, 0, 0, 0},
      {0x80000000, 0, 0, 0x80000022, 0, 0, 0},
      {0x80000001, 0, 0, 0, 0, kAll, kAll},
      {0x80000007, 0, 0, 0, 0, 0, 0x100},
      {0x80000008, 0, 0, 0x3034, 0, 0, 0},
      {0x8000000a, 0, 0, 1, 8, 0, kAll},
      {0x8000001d, 0, 1, 0x121, 0, 0, 0},
      {0x8000001d, 3, 1, 0x163, 0, 0, 0},
      {0x8000001e, 0, 0, 99, 99, 99, 0},
      {0x8000001f, 0, 0, kAll, 0, 0, 0},
      {0x80000022, 0, 0, 1, 6, 0, 0},
  };
  return list;
}

class CpuidOfEveryCpu : public testing::TestWithParam<std::uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Counts, CpuidOfEveryCpu, testing::Values(1, 2, 3, 4, 16, 17, 64));

TEST_P(CpuidOfEveryCpu, HasItsOwnApicIdAndTheSamePackage) {
  const std::uint32_t count = GetParam();
  std::set<std::uint32_t> ids;
  for (std::uint32_t cpu = 0; cpu < count; cpu++) {
    const auto entries = guestCpuid(generousHost(), cpu, count, {});
    const std::uint32_t id = find(entries, 1)->ebx >> 24;
    ids.insert(id);
    // Linux takes the id from leaf 0xb or 0x1f and the package by shifting it (Intel SDM volume 3, section 9.9.1).
    for (const std::uint32_t leaf : {0xbU, 0x1fU}) {
      for (const std::uint32_t level : {0U, 1U, 2U}) EXPECT_EQ(find(entries, leaf, level)->edx, id);
      EXPECT_EQ(find(entries, leaf, 0)->ecx, 0x100U) << "threads first";
      EXPECT_EQ(find(entries, leaf, 0)->eax, 0U);
      EXPECT_EQ(find(entries, leaf, 0)->ebx, 1U);
      EXPECT_EQ(find(entries, leaf, 1)->ecx, 0x201U) << "then cores";
      EXPECT_EQ(find(entries, leaf, 1)->ebx, count);
      EXPECT_EQ(id >> find(entries, leaf, 1)->eax, 0U) << "all in package 0";
      EXPECT_EQ(find(entries, leaf, 2)->ecx & 0xff00, 0U) << "no further level";
    }
    EXPECT_EQ(find(entries, 0x8000001e)->eax, id);
  }
  EXPECT_EQ(ids.size(), count);
}

TEST_P(CpuidOfEveryCpu, CountsCoresAlike) {
  const std::uint32_t count = GetParam();
  const auto entries = guestCpuid(generousHost(), 0, count, {});
  const std::uint32_t idSpace = (find(entries, 1)->ebx >> 16) & 0xff;
  EXPECT_GE(idSpace, count);
  EXPECT_LT(idSpace, 2 * count);
  EXPECT_EQ((find(entries, 1)->edx >> 28) & 1, count > 1 ? 1U : 0U) << "HTT";
  EXPECT_EQ(find(entries, 0x80000008)->ecx & 0xff, count - 1);
  EXPECT_EQ(1U << (find(entries, 0x80000008)->ecx >> 12 & 0xf), idSpace);
  EXPECT_EQ(find(entries, 4)->eax >> 26, std::min(idSpace, 64U) - 1);
  // A core's own caches are not shared, the last level is by all.
  for (const std::uint32_t index : {0U, 1U, 2U}) EXPECT_EQ(find(entries, 4, index)->eax >> 14 & 0xfff, 0U);
  EXPECT_EQ(find(entries, 4, 3)->eax >> 14 & 0xfff, idSpace - 1);
  EXPECT_EQ(find(entries, 4, 4)->eax, 0U) << "the end of the list stays one";
  EXPECT_EQ(find(entries, 0x8000001d, 0)->eax >> 14 & 0xfff, 0U);
  EXPECT_EQ(find(entries, 0x8000001d, 3)->eax >> 14 & 0xfff, idSpace - 1);
}

TEST(Cpuid, TakesAwayWhatTheMachineLacks) {
  const auto entries = guestCpuid(generousHost(), 0, 2, {});
  const CpuidEntry basic = *find(entries, 1);
  EXPECT_EQ(basic.ecx & (1U << 5 | 1U << 15 | 1U << 3), 0U) << "VMX, PDCM, MONITOR";
  EXPECT_NE(basic.ecx & 1U << 31, 0U) << "hypervisor";
  const CpuidEntry structured = *find(entries, 7);
  EXPECT_EQ(structured.ebx & (1U << 2 | 1U << 25), 0U) << "SGX, processor trace";
  EXPECT_EQ(structured.edx & (1U << 15 | 1U << 22 | 1U << 24 | 1U << 25), 0U) << "hybrid, AMX";
  EXPECT_EQ(find(entries, 7, 1)->eax & 1U << 21, 0U) << "AMX FP16";
  const CpuidEntry counters = *find(entries, 0xa);
  EXPECT_EQ(counters.eax | counters.ebx | counters.ecx | counters.edx, 0U);
  EXPECT_EQ(find(entries, 0x80000001)->ecx & (1U << 2 | 1U << 23), 0U) << "SVM, performance counters";
  for (const std::uint32_t gone : {0x12U, 0x14U, 0x1dU, 0x1eU, 0x8000000aU, 0x8000001fU, 0x80000022U}) {
    EXPECT_FALSE(find(entries, gone)) << std::hex << gone;
  }
}

TEST(Cpuid, KeepsWhatItDoesNotKnow) {
  const auto entries = guestCpuid(generousHost(), 0, 1, {});
  EXPECT_EQ(find(entries, 0)->ebx, 0x756e6547U);
  EXPECT_EQ(find(entries, 1)->eax, 0x000806f8U);
  EXPECT_EQ(find(entries, 1)->ecx & (1U << 21 | 1U << 28), 1U << 21 | 1U << 28) << "x2APIC, AVX";
  EXPECT_EQ(find(entries, 7)->ebx & (1U << 5 | 1U << 16), 1U << 5 | 1U << 16) << "AVX2, AVX-512";
  EXPECT_EQ(find(entries, 0x40000001)->eax, 0x01007afbU);
  EXPECT_EQ(find(entries, 0xd, 7)->flags, 1U);
}

TEST(Cpuid, ShrinksTheXsaveAreaWithAmx) {
  const auto entries = guestCpuid(generousHost(), 0, 1, {});
  EXPECT_EQ(find(entries, 0xd)->eax, 0x2e7U);
  EXPECT_EQ(find(entries, 0xd)->ecx, 2688U + 8);
  EXPECT_FALSE(find(entries, 0xd, 17));
  EXPECT_FALSE(find(entries, 0xd, 18));
  // Without AMX the size stays what KVM said.
  const std::vector<CpuidEntry> plain{{0xd, 0, 1, 7, 0x240, 1234, 0}, {0xd, 2, 1, 256, 576, 0, 0}};
  EXPECT_EQ(find(guestCpuid(plain, 0, 1, {}), 0xd)->ecx, 1234U);
}

TEST(Cpuid, AnnouncesTheDeadlineTimerAsKvmHasIt) {
  EXPECT_EQ(find(guestCpuid(generousHost(), 0, 1, {.tscDeadlineTimer = false}), 1)->ecx >> 24 & 1, 0U);
  EXPECT_EQ(find(guestCpuid(generousHost(), 0, 1, {.tscDeadlineTimer = true}), 1)->ecx >> 24 & 1, 1U);
}

TEST(Cpuid, TellsTheClockFrequencyOnlyWhereItIsConstant) {
  const auto told = guestCpuid(generousHost(), 0, 1, {.tscKhz = 2'500'000});
  EXPECT_EQ(find(told, 0x40000000)->eax, 0x40000010U);
  EXPECT_EQ(find(told, 0x40000010)->eax, 2'500'000U);
  EXPECT_EQ(find(told, 0x40000010)->ebx, 1'000'000U);
  EXPECT_FALSE(find(guestCpuid(generousHost(), 0, 1, {}), 0x40000010));
  auto host = generousHost();
  std::ranges::find(host, 0x80000007U, &CpuidEntry::function)->edx = 0;
  EXPECT_FALSE(find(guestCpuid(host, 0, 1, {.tscKhz = 2'500'000}), 0x40000010));
}

TEST(Cpuid, WorksWithAHostThatSaysLittle) {
  // An old host: no topology leaf, none of the newer ones.
  const std::vector<CpuidEntry> host{{0x0, 0, 0, 1, 0, 0, 0}, {0x1, 0, 0, 0x600, 0, 0, 0}};
  const auto entries = guestCpuid(host, 1, 2, {});
  EXPECT_EQ(find(entries, 0)->eax, 0xbU) << "the topology leaf is within reach";
  EXPECT_EQ(find(entries, 0xb, 1)->edx, 1U);
  EXPECT_FALSE(find(entries, 0x1f));
  EXPECT_EQ(physicalAddressBits(host), 36U);
  EXPECT_EQ(physicalAddressBits(generousHost()), 0x34U);
}

}  // namespace
}  // namespace tshyve::boot
