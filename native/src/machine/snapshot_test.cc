#include "machine/snapshot.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/crc32.h"

namespace tshyve {
namespace {

namespace fs = std::filesystem;

constexpr GuestMemory::Extent kExtents[] = {{0, 8 << 20}, {1ULL << 32, 4 << 20}};

class SnapshotFileTest : public testing::Test {
 protected:
  SnapshotFileTest() {
    std::string pattern = (fs::temp_directory_path() / "tshyve-snapshot-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
    memory_ = *GuestMemory::create(kExtents, GuestMemory::Backing::kPrivate);
    EXPECT_TRUE(memory_->write<std::uint64_t>(0x1000, 0x1111));
    EXPECT_TRUE(memory_->write<std::uint64_t>((1ULL << 32) + 0x200000, 0x2222));
  }
  ~SnapshotFileTest() override { fs::remove_all(folder_); }
  /// Changes a byte of the state file.
  void damage(std::streamoff offset) {
    std::fstream file(folder_ + "/state.bin", std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(offset);
    const int byte = file.get();
    file.seekp(offset);
    file.put(static_cast<char>(byte ^ 0x40));
  }

  std::string folder_;
  std::unique_ptr<GuestMemory> memory_;
  const std::string state_ = "the state";
};

TEST_F(SnapshotFileTest, GivesBackWhatWasWritten) {
  ASSERT_TRUE(snapshot::write(folder_, *memory_, std::as_bytes(std::span(state_))));
  const auto loaded = snapshot::open(folder_);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(std::memcmp(loaded->state.data(), state_.data(), state_.size()), 0);
  const auto memory = GuestMemory::createFromFile(kExtents, GuestMemory::Backing::kPrivate, loaded->memoryFile.get());
  ASSERT_TRUE(memory);
  EXPECT_EQ((*memory)->read<std::uint64_t>(0x1000), 0x1111U);
  EXPECT_EQ((*memory)->read<std::uint64_t>((1ULL << 32) + 0x200000), 0x2222U);
  EXPECT_EQ((*memory)->read<std::uint64_t>(0x2000), 0U);
}

TEST_F(SnapshotFileTest, IsSparseAndPrivate) {
  ASSERT_TRUE(snapshot::write(folder_, *memory_, std::as_bytes(std::span(state_))));
  struct stat status {};
  ASSERT_EQ(::stat((folder_ + "/memory-0.bin").c_str(), &status), 0);
  EXPECT_EQ(status.st_size, 12 << 20);
  EXPECT_LE(status.st_blocks * 512, 64 * 1024);
  EXPECT_EQ(status.st_mode & 0777U, 0600U);
}

TEST_F(SnapshotFileTest, ReplacesAnEarlierOneAndLeavesNothingBehind) {
  for (int round = 0; round < 3; round++) {
    ASSERT_TRUE(snapshot::write(folder_, *memory_, std::as_bytes(std::span(state_))));
    ASSERT_TRUE(snapshot::open(folder_));
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 2);
  }
}

TEST_F(SnapshotFileTest, KeepsTheEarlierOneWhenItCannotBeReplaced) {
  ASSERT_TRUE(snapshot::write(folder_, *memory_, std::as_bytes(std::span(state_))));
  fs::create_directory(folder_ + "/state.bin.new");
  EXPECT_FALSE(snapshot::write(folder_, *memory_, std::as_bytes(std::span(state_))));
  EXPECT_TRUE(snapshot::open(folder_));
}

TEST_F(SnapshotFileTest, RefusesDamage) {
  ASSERT_TRUE(snapshot::write(folder_, *memory_, std::as_bytes(std::span(state_))));
  // Magic, version, checksum, length of the state, length of the memory, name of the memory file, state.
  for (const std::streamoff offset : {0, 8, 12, 16, 24, 32, 66}) {
    ASSERT_TRUE(snapshot::open(folder_));
    damage(offset);
    EXPECT_FALSE(snapshot::open(folder_)) << offset;
    damage(offset);
  }
  fs::resize_file(folder_ + "/memory-0.bin", 4096);
  const auto cut = snapshot::open(folder_);
  ASSERT_FALSE(cut);
  EXPECT_EQ(cut.error().code, ErrorCode::kCorrupt);
}

TEST(Crc32, MatchesTheCheckValue) {
  const std::string digits = "123456789";
  EXPECT_EQ(crc32(std::as_bytes(std::span(digits))), 0xcbf43926U);
}

}  // namespace
}  // namespace tshyve
