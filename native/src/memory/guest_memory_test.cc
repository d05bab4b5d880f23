#include "memory/guest_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

namespace tshyve {
namespace {

constexpr GuestMemory::Extent kExtents[] = {{0, 0x10000}, {0x100000, 0x20000}};

class GuestMemoryTest : public testing::TestWithParam<GuestMemory::Backing> {};
INSTANTIATE_TEST_SUITE_P(Backings, GuestMemoryTest,
                         testing::Values(GuestMemory::Backing::kPrivate, GuestMemory::Backing::kShared));

TEST_P(GuestMemoryTest, SlicesOnlyWhatIsWhollyInOneRegion) {
  auto memory = GuestMemory::create(kExtents, GetParam());
  ASSERT_TRUE(memory);
  EXPECT_TRUE((*memory)->slice(0, 0x10000));
  EXPECT_FALSE((*memory)->slice(0, 0x10001));
  EXPECT_FALSE((*memory)->slice(0x10000, 1));
  EXPECT_FALSE((*memory)->slice(0xfffff, 2));
  EXPECT_TRUE((*memory)->slice(0x11ffff, 1));
  EXPECT_FALSE((*memory)->slice(0x11ffff, 2));
  EXPECT_FALSE((*memory)->slice(0x100000, UINT64_MAX));
  EXPECT_FALSE((*memory)->slice(UINT64_MAX, 2));
  EXPECT_EQ((*memory)->totalBytes(), 0x30000U);
}

TEST_P(GuestMemoryTest, ReadsBackWhatWasWritten) {
  auto memory = GuestMemory::create(kExtents, GetParam());
  ASSERT_TRUE((*memory)->write<std::uint32_t>(0x100ffc, 0xdeadbeef));
  EXPECT_EQ((*memory)->read<std::uint32_t>(0x100ffc), 0xdeadbeefU);
  EXPECT_FALSE((*memory)->write<std::uint32_t>(0xfffe, 1));
  EXPECT_EQ((*memory)->read<std::uint64_t>(0xfffc), std::nullopt);
  EXPECT_TRUE((*memory)->readBytes(0, {}));
}

TEST_P(GuestMemoryTest, DiscardedPagesReadAsZero) {
  auto memory = GuestMemory::create(kExtents, GetParam());
  ASSERT_TRUE((*memory)->write<std::uint64_t>(0x101000, 7));
  ASSERT_TRUE((*memory)->discard(0x101000, 0x1000));
  EXPECT_EQ((*memory)->read<std::uint64_t>(0x101000), 0U);
  EXPECT_FALSE((*memory)->discard(0x101001, 0x1000));
  EXPECT_FALSE((*memory)->discard(0x11f000, 0x2000));
  EXPECT_FALSE((*memory)->discard(0x101000, 0));
  EXPECT_FALSE((*memory)->discard(0xf000, 0xf1000));
  ASSERT_TRUE((*memory)->write<std::uint64_t>(0x102000, 7));
  ASSERT_TRUE((*memory)->discard(*(*memory)->slice(0x102000, 0x1000)));
  EXPECT_EQ((*memory)->read<std::uint64_t>(0x102000), 0U);
  std::vector<std::byte> foreign(0x3000);
  EXPECT_FALSE((*memory)->discard(foreign));
  EXPECT_FALSE((*memory)->discard((*memory)->slice(0x102000, 0x2000)->subspan(1, 0x1000)));
}

TEST_P(GuestMemoryTest, TakesItsContentFromAFileAndLeavesThatAlone) {
  const UniqueFd file(::memfd_create("memory", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), 0x30000), 0);
  const std::uint32_t number = 0xfeed;
  ASSERT_EQ(::pwrite(file.get(), &number, sizeof number, 0x11000), 4);
  auto memory = GuestMemory::createFromFile(kExtents, GetParam(), file.get());
  ASSERT_TRUE(memory) << memory.error().message;
  EXPECT_EQ((*memory)->read<std::uint32_t>(0x101000), number);
  EXPECT_EQ((*memory)->read<std::uint32_t>(0x1000), 0U);
  ASSERT_TRUE((*memory)->write<std::uint32_t>(0x101000, 7));
  std::uint32_t inFile = 0;
  ASSERT_EQ(::pread(file.get(), &inFile, sizeof inFile, 0x11000), 4);
  EXPECT_EQ(inFile, number);
  ASSERT_TRUE((*memory)->discard(0x101000, 0x1000));
  EXPECT_EQ((*memory)->read<std::uint32_t>(0x101000), 0U);
  ASSERT_EQ(::ftruncate(file.get(), 0x2f000), 0);
  EXPECT_FALSE(GuestMemory::createFromFile(kExtents, GetParam(), file.get()));
}

TEST_P(GuestMemoryTest, BeginsOnLargePages) {
  // An odd mapping in between, so that alignment does not come by chance.
  for (int round = 0; round < 4; round++) {
    const void* const odd = ::mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    auto memory = GuestMemory::create(kExtents, GetParam());
    ASSERT_TRUE(memory);
    for (const GuestMemory::Region& region : (*memory)->regions()) {
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(region.bytes.data()) % (2 << 20), 0U);
    }
    ::munmap(const_cast<void*>(odd), 4096);
  }
}

TEST(GuestMemory, RefusesBadExtents) {
  const GuestMemory::Extent overlapping[] = {{0, 0x2000}, {0x1000, 0x1000}};
  EXPECT_FALSE(GuestMemory::create(overlapping, GuestMemory::Backing::kPrivate));
  const GuestMemory::Extent unaligned[] = {{0x10, 0x1000}};
  EXPECT_FALSE(GuestMemory::create(unaligned, GuestMemory::Backing::kPrivate));
}

}  // namespace
}  // namespace tshyve
