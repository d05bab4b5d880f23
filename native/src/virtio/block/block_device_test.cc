#include "virtio/block/block_device.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <numeric>

#include "virtio/testing/guest_driver.h"

namespace tshyve::virtio {
namespace {

constexpr std::uint64_t kDiskBytes = 1 << 20;
constexpr std::uint64_t kFeatureFlush = 1ULL << 9;
constexpr std::uint64_t kFeatureReadOnly = 1ULL << 5;
constexpr std::uint64_t kFeatureMultiQueue = 1ULL << 12;

struct Header {
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t sector;
};
struct Range {
  std::uint64_t sector;
  std::uint32_t sectors;
  std::uint32_t flags;
};
constexpr std::uint32_t kIn = 0;
constexpr std::uint32_t kOut = 1;
constexpr std::uint32_t kFlush = 4;
constexpr std::uint32_t kGetId = 8;
constexpr std::uint32_t kDiscard = 11;
constexpr std::uint32_t kWriteZeroes = 13;

/// Engine of the tests' own making: passes operations on, after it has spoilt them as the test wishes.
class SpoilingEngine final : public IoEngine {
 public:
  explicit SpoilingEngine(std::unique_ptr<IoEngine> inner) : inner_(std::move(inner)) {}
  [[nodiscard]] const char* name() const override { return "spoiling"; }
  void submit(IoOperation& operation) override {
    if (shortenTo > 0 && !operation.buffers.empty()) {
      // As a full or slow device does: only a part of the first buffer.
      whole_[&operation] = operation.buffers;
      operation.buffers = operation.buffers.first(1);
      saved_[&operation] = operation.buffers[0].iov_len;
      operation.buffers[0].iov_len = std::min(operation.buffers[0].iov_len, shortenTo);
    }
    submitted++;
    inner_->submit(operation);
  }
  void flush() override { inner_->flush(); }
  void reap(std::vector<IoOperation*>& done, bool wait) override {
    inner_->reap(done, wait);
    for (IoOperation* operation : done) {
      if (const auto found = whole_.find(operation); found != whole_.end()) {
        operation->buffers = found->second;
        operation->buffers[0].iov_len = saved_[operation];
        whole_.erase(found);
      }
      if (!results.empty()) {
        operation->result = results.back();
        results.pop_back();
      }
    }
  }
  [[nodiscard]] int completionFd() const override { return inner_->completionFd(); }

  std::size_t shortenTo = 0;
  /// Results in place of the real ones, the last first.
  std::vector<std::int64_t> results;
  int submitted = 0;

 private:
  std::unique_ptr<IoEngine> inner_;
  std::map<IoOperation*, std::span<iovec>> whole_;
  std::map<IoOperation*, std::size_t> saved_;
};

using EngineMaker = Result<std::unique_ptr<IoEngine>> (*)(int fd);
struct EngineCase {
  const char* name;
  EngineMaker make;
};

class BlockDeviceTest : public ::testing::TestWithParam<EngineCase> {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "block-XXXXXX";
    const UniqueFd fd(::mkstemp(pattern.data()));
    ASSERT_TRUE(fd);
    path = pattern;
    std::vector<std::uint8_t> content(kDiskBytes);
    for (std::size_t index = 0; index < content.size(); index++) content[index] = patternAt(index);
    ASSERT_EQ(::write(fd.get(), content.data(), content.size()), static_cast<ssize_t>(kDiskBytes));
  }
  void TearDown() override {
    harness.reset();
    device.reset();
    std::filesystem::remove(path);
  }
  static std::uint8_t patternAt(std::uint64_t index) {
    return static_cast<std::uint8_t>(1 + (index / kSectorSize) % 250);
  }

  void make(bool readOnly = false, std::uint16_t queues = 1) {
    auto disk = DiskFile::open(path, readOnly, log());
    ASSERT_TRUE(disk) << disk.error().message;
    auto inner = GetParam().make(disk->fd.get());
    ASSERT_TRUE(inner) << inner.error().message;
    auto spoiling = std::make_unique<SpoilingEngine>(std::move(*inner));
    engine = spoiling.get();
    auto made = BlockDevice::create(*loop, {.id = "data", .path = path, .readOnly = readOnly, .queues = queues},
                                    std::move(*disk), std::move(spoiling), log());
    ASSERT_TRUE(made) << made.error().message;
    device = std::move(*made);
    harness.emplace(*device);
    ASSERT_TRUE(harness->activate());
  }
  Log log() {
    return [this](std::string line) { lines.push_back(std::move(line)); };
  }

  test::GuestQueue::Used waitUsed(std::uint16_t queue = 0) {
    for (int round = 0; round < 1000; round++) {
      if (const auto used = harness->queue(queue).takeUsed()) return *used;
      loop->runOnce(std::chrono::milliseconds(10));
    }
    ADD_FAILURE() << "the request was never answered";
    return {};
  }
  struct Answer {
    int status;
    std::uint32_t written;
  };
  /// A request whose data lie at `data`; the driver's usual layout.
  Answer request(std::uint32_t type, std::uint64_t sector, std::uint64_t data, std::uint32_t length,
                 std::uint16_t queue = 0) {
    const std::uint64_t header = harness->allocator.put(Header{type, 0, sector});
    const std::uint64_t status = harness->allocator.put(std::uint8_t{0xaa});
    std::vector<test::Buffer> buffers{{header, sizeof(Header), false}};
    const bool deviceWrites = type == kIn || type == kGetId;
    if (length > 0) buffers.push_back({data, length, deviceWrites});
    buffers.push_back({status, 1, true});
    harness->queue(queue).offer(buffers);
    harness->notify(queue);
    const auto used = waitUsed(queue);
    return {*harness->memory->read<std::uint8_t>(status), used.written};
  }
  Answer ranges(std::uint32_t type, const std::vector<Range>& list) {
    const auto bytes = std::as_bytes(std::span(list));
    return request(type, 0, harness->allocator.put(bytes), static_cast<std::uint32_t>(bytes.size()));
  }
  std::vector<std::uint8_t> fileBytes(std::uint64_t offset, std::size_t length) {
    std::vector<std::uint8_t> bytes(length);
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(::pread(fd.get(), bytes.data(), length, static_cast<off_t>(offset)), static_cast<ssize_t>(length));
    return bytes;
  }
  template <typename T>
  T config(std::uint32_t offset) {
    T value;
    device->readConfig(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }

  std::string path;
  std::vector<std::string> lines;
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create("block").value());
  std::shared_ptr<BlockDevice> device;
  SpoilingEngine* engine = nullptr;
  std::optional<test::DeviceHarness> harness;
};

const EngineCase kEngines[] = {
    {"Best", [](int fd) { return makeIoEngine(fd, BlockDevice::kDepth); }},
    {"Threads", [](int fd) { return makeThreadPoolEngine(fd); }},
};
INSTANTIATE_TEST_SUITE_P(Engines, BlockDeviceTest, ::testing::ValuesIn(kEngines),
                         [](const auto& param) { return param.param.name; });

TEST_P(BlockDeviceTest, DescribesTheDisk) {
  make(false, 3);
  EXPECT_EQ(config<std::uint64_t>(0), kDiskBytes / 512);
  EXPECT_EQ(config<std::uint32_t>(12), BlockDevice::kMaxSegments);
  EXPECT_EQ(config<std::uint32_t>(20), 512U);
  EXPECT_EQ(config<std::uint8_t>(24), 3);
  EXPECT_EQ(config<std::uint16_t>(34), 3);
  EXPECT_EQ(config<std::uint64_t>(60), 0U);
  EXPECT_EQ(config<std::uint64_t>(0xfffffff8), 0U);
  EXPECT_NE(device->features() & kFeatureMultiQueue, 0U);
  EXPECT_EQ(device->queueSizes().size(), 3U);
}

TEST_P(BlockDeviceTest, ReadsAndWrites) {
  make();
  const std::uint64_t data = harness->allocator.allocate(8192);
  auto answer = request(kIn, 5, data, 4096);
  EXPECT_EQ(answer.status, 0);
  EXPECT_EQ(answer.written, 4097U);
  for (std::uint64_t index = 0; index < 4096; index++) {
    ASSERT_EQ(harness->memory->read<std::uint8_t>(data + index), patternAt(5 * 512 + index));
  }
  for (std::uint64_t index = 0; index < 8192; index += 8) ASSERT_TRUE(harness->memory->write(data + index, index));
  answer = request(kOut, 16, data, 8192);
  EXPECT_EQ(answer.status, 0);
  EXPECT_EQ(answer.written, 1U);
  const auto written = fileBytes(16 * 512, 8192);
  EXPECT_EQ(std::memcmp(written.data(), harness->memory->slice(data, 8192)->data(), 8192), 0);
  EXPECT_EQ(harness->signals.interruptsOf(0), 2U);
}

TEST_P(BlockDeviceTest, TakesWhateverLayoutTheDriverChooses) {
  make();
  const std::uint64_t data = harness->allocator.allocate(2048);
  const std::uint64_t header = harness->allocator.put(Header{kIn, 0, 8});
  // Header in two pieces; status behind the data in one buffer; data in odd pieces.
  harness->queue(0).offerIndirect(
      {{header, 3, false}, {header + 3, 13, false}, {data, 100, true}, {data + 100, 413, true}});
  harness->notify(0);
  EXPECT_EQ(waitUsed().written, 513U);
  EXPECT_EQ(harness->memory->read<std::uint8_t>(data), patternAt(8 * 512));
  EXPECT_EQ(harness->memory->read<std::uint8_t>(data + 511), patternAt(8 * 512));
  EXPECT_EQ(harness->memory->read<std::uint8_t>(data + 512), 0);
  // Header and data to be written in one.
  std::vector<std::byte> both(sizeof(Header) + 512, std::byte{0x77});
  const Header out{kOut, 0, 9};
  std::memcpy(both.data(), &out, sizeof out);
  const std::uint64_t address = harness->allocator.put(both);
  harness->queue(0).offer({{address, sizeof(Header) + 512, false}, {data, 1, true}});
  harness->notify(0);
  EXPECT_EQ(waitUsed().written, 1U);
  EXPECT_EQ(harness->memory->read<std::uint8_t>(data), 0);
  EXPECT_EQ(fileBytes(9 * 512, 512), std::vector<std::uint8_t>(512, 0x77));
}

TEST_P(BlockDeviceTest, ServesAQueueFullOfRequests) {
  make();
  constexpr int kRequests = 40;
  std::vector<std::uint64_t> data;
  for (int index = 0; index < kRequests; index++) {
    data.push_back(harness->allocator.allocate(512));
    const std::uint64_t header = harness->allocator.put(Header{kIn, 0, static_cast<std::uint64_t>(index)});
    const std::uint64_t status = harness->allocator.allocate(1);
    harness->queue(0).offer({{header, 16, false}, {data.back(), 512, true}, {status, 1, true}});
  }
  harness->notify(0);
  for (int index = 0; index < kRequests; index++) EXPECT_EQ(waitUsed().written, 513U);
  for (int index = 0; index < kRequests; index++) {
    EXPECT_EQ(harness->memory->read<std::uint8_t>(data[static_cast<std::size_t>(index)]),
              patternAt(static_cast<std::uint64_t>(index) * 512));
  }
}

TEST_P(BlockDeviceTest, LongReadsComeWhole) {
  make();
  constexpr std::uint32_t kLength = 256 * 1024;
  std::vector<std::uint64_t> data;
  for (std::uint64_t index = 0; index < 4; index++) {
    data.push_back(harness->allocator.allocate(kLength));
    const std::uint64_t header = harness->allocator.put(Header{kIn, 0, index});
    const std::uint64_t status = harness->allocator.allocate(1);
    harness->queue(0).offer({{header, 16, false}, {data.back(), kLength, true}, {status, 1, true}});
  }
  harness->notify(0);
  for (std::uint64_t index = 0; index < 4; index++) EXPECT_EQ(waitUsed().written, kLength + 1);
  for (std::uint64_t index = 0; index < 4; index++) {
    for (std::uint64_t byte = 0; byte < kLength; byte += 511) {
      ASSERT_EQ(harness->memory->read<std::uint8_t>(data[index] + byte), patternAt(index * 512 + byte));
    }
  }
}

TEST_P(BlockDeviceTest, EachQueueWorks) {
  make(false, 4);
  for (std::uint16_t queue = 0; queue < 4; queue++) {
    const std::uint64_t data = harness->allocator.allocate(512);
    EXPECT_EQ(request(kIn, queue, data, 512, queue).status, 0);
    EXPECT_EQ(harness->memory->read<std::uint8_t>(data), patternAt(queue * 512U));
    EXPECT_EQ(harness->signals.interruptsOf(queue), 1U);
  }
}

TEST_P(BlockDeviceTest, RefusesWhatIsNotOnTheDisk) {
  make();
  const std::uint64_t data = harness->allocator.allocate(4096);
  const std::uint64_t end = kDiskBytes / 512;
  EXPECT_EQ(request(kIn, end - 8, data, 4096).status, 0);
  EXPECT_EQ(request(kIn, end - 7, data, 4096).status, 1);
  EXPECT_EQ(request(kOut, end, data, 512).status, 1);
  EXPECT_EQ(request(kIn, UINT64_MAX, data, 512).status, 1);
  EXPECT_EQ(request(kIn, UINT64_MAX / 512 + 1, data, 512).status, 1);
  EXPECT_EQ(request(kIn, 0, data, 511).status, 1);
  EXPECT_EQ(request(kIn, 0, data, 0).status, 1);
  EXPECT_EQ(request(99, 0, data, 512).status, 2);
  EXPECT_EQ(std::filesystem::file_size(path), kDiskBytes);
  EXPECT_FALSE(harness->signals.broken);
}

TEST_P(BlockDeviceTest, RequestsWithoutHeaderOrStatusBreakTheDevice) {
  make();
  const std::uint64_t data = harness->allocator.allocate(512);
  harness->queue(0).offer({{data, 15, false}, {data, 1, true}});
  harness->notify(0);
  EXPECT_TRUE(harness->signals.broken);
  harness->signals.broken.reset();
  ASSERT_TRUE(harness->activate());
  harness->queue(0).offer({{data, 16, false}});
  harness->notify(0);
  EXPECT_TRUE(harness->signals.broken);
}

TEST_P(BlockDeviceTest, GivesItsId) {
  make();
  const std::uint64_t data = harness->allocator.allocate(32);
  EXPECT_EQ(request(kGetId, 0, data, 19).status, 1);
  const auto answer = request(kGetId, 0, data, 20);
  EXPECT_EQ(answer.status, 0);
  EXPECT_EQ(answer.written, 21U);
  EXPECT_EQ(harness->memory->read<std::uint32_t>(data), 0x61746164U);
  EXPECT_EQ(harness->memory->read<std::uint64_t>(data + 4), 0U);
}

TEST_P(BlockDeviceTest, Flushes) {
  make();
  EXPECT_EQ(request(kFlush, 0, 0, 0).status, 0);
  EXPECT_EQ(engine->submitted, 1);
}

TEST_P(BlockDeviceTest, AReadOnlyDiskStaysAsItIs) {
  make(true);
  EXPECT_NE(device->features() & kFeatureReadOnly, 0U);
  const std::uint64_t data = harness->allocator.allocate(512);
  EXPECT_EQ(request(kOut, 0, data, 512).status, 1);
  EXPECT_EQ(ranges(kDiscard, {{0, 8, 0}}).status, 1);
  EXPECT_EQ(ranges(kWriteZeroes, {{0, 8, 0}}).status, 1);
  EXPECT_EQ(request(kFlush, 0, 0, 0).status, 0);
  EXPECT_EQ(request(kIn, 0, data, 512).status, 0);
  EXPECT_EQ(fileBytes(0, 512), std::vector<std::uint8_t>(512, 1));
}

TEST_P(BlockDeviceTest, DiscardGivesSpaceBack) {
  make();
  struct stat before {};
  ASSERT_EQ(::stat(path.c_str(), &before), 0);
  EXPECT_EQ(ranges(kDiscard, {{0, 512, 0}, {1024, 512, 0}}).status, 0);
  struct stat after {};
  ASSERT_EQ(::stat(path.c_str(), &after), 0);
  EXPECT_EQ(after.st_size, before.st_size);
  EXPECT_LE(after.st_blocks, before.st_blocks - 1024);
  EXPECT_EQ(fileBytes(0, 512), std::vector<std::uint8_t>(512, 0));
  EXPECT_EQ(fileBytes(600 * 512, 1)[0], patternAt(600 * 512));
}

TEST_P(BlockDeviceTest, WritesZeroes) {
  make();
  EXPECT_EQ(ranges(kWriteZeroes, {{3, 2, 0}, {7, 1, 1}}).status, 0);
  EXPECT_EQ(fileBytes(3 * 512, 1024), std::vector<std::uint8_t>(1024, 0));
  EXPECT_EQ(fileBytes(7 * 512, 512), std::vector<std::uint8_t>(512, 0));
  EXPECT_EQ(fileBytes(6 * 512, 1)[0], patternAt(6 * 512));
}

TEST_P(BlockDeviceTest, WritesZeroesByHandWhereTheFileSystemCannot) {
  make();
  engine->results = {-EOPNOTSUPP};
  EXPECT_EQ(ranges(kWriteZeroes, {{1, 300, 0}, {400, 2, 0}}).status, 0);
  EXPECT_EQ(fileBytes(512, 300 * 512), std::vector<std::uint8_t>(300 * 512, 0));
  EXPECT_EQ(fileBytes(400 * 512, 1024), std::vector<std::uint8_t>(1024, 0));
  EXPECT_EQ(fileBytes(0, 1)[0], patternAt(0));
  EXPECT_EQ(fileBytes(301 * 512, 1)[0], patternAt(301 * 512));
  // It remembers, and works in pieces.
  engine->shortenTo = 1000;
  EXPECT_EQ(ranges(kWriteZeroes, {{500, 10, 0}}).status, 0);
  EXPECT_EQ(fileBytes(500 * 512, 5120), std::vector<std::uint8_t>(5120, 0));
  EXPECT_EQ(fileBytes(510 * 512, 1)[0], patternAt(510 * 512));
}

TEST_P(BlockDeviceTest, ChecksRanges) {
  make();
  const std::uint64_t end = kDiskBytes / 512;
  EXPECT_EQ(ranges(kDiscard, {}).status, 1);
  EXPECT_EQ(ranges(kDiscard, {{0, 8, 1}}).status, 2);
  EXPECT_EQ(ranges(kWriteZeroes, {{0, 8, 2}}).status, 2);
  EXPECT_EQ(ranges(kDiscard, {{end - 1, 2, 0}}).status, 1);
  EXPECT_EQ(ranges(kDiscard, {{UINT64_MAX, 2, 0}}).status, 1);
  EXPECT_EQ(ranges(kDiscard, {{0, BlockDevice::kMaxRangeSectors + 1, 0}}).status, 1);
  EXPECT_EQ(ranges(kDiscard, {{0, 0, 0}}).status, 0);
  EXPECT_EQ(ranges(kDiscard, std::vector<Range>(17, Range{0, 1, 0})).status, 1);
  EXPECT_EQ(request(kDiscard, 0, harness->allocator.allocate(24), 24).status, 2);
  EXPECT_EQ(fileBytes(0, 1)[0], patternAt(0));
}

TEST_P(BlockDeviceTest, ADriverThatCannotFlushGetsDurableWrites) {
  make();
  ASSERT_TRUE(harness->activate((device->features() | kFeatureVersion1) & ~kFeatureFlush));
  const std::uint64_t data = harness->allocator.allocate(512);
  EXPECT_EQ(request(kOut, 0, data, 512).status, 0);
  EXPECT_EQ(engine->submitted, 1);
  // A discard is followed by a flush.
  EXPECT_EQ(ranges(kDiscard, {{8, 8, 0}, {32, 8, 0}}).status, 0);
  EXPECT_EQ(engine->submitted, 4);
}

TEST_P(BlockDeviceTest, GoesOnAfterShortTransfersAndInterruptions) {
  make();
  engine->shortenTo = 700;
  const std::uint64_t data = harness->allocator.allocate(4096);
  const std::uint64_t header = harness->allocator.put(Header{kIn, 0, 4});
  const std::uint64_t status = harness->allocator.put(std::uint8_t{0xaa});
  harness->queue(0).offer({{header, 16, false}, {data, 1000, true}, {data + 1000, 3096, true}, {status, 1, true}});
  engine->results = {-EINTR};
  harness->notify(0);
  EXPECT_EQ(waitUsed().written, 4097U);
  for (std::uint64_t index = 0; index < 4096; index++) {
    ASSERT_EQ(harness->memory->read<std::uint8_t>(data + index), patternAt(4 * 512 + index)) << index;
  }
  ASSERT_TRUE(harness->memory->write<std::uint64_t>(data + 2000, 0x1122334455667788));
  EXPECT_EQ(request(kOut, 100, data, 4096).status, 0);
  const auto written = fileBytes(100 * 512, 4096);
  EXPECT_EQ(std::memcmp(written.data(), harness->memory->slice(data, 4096)->data(), 4096), 0);
}

TEST_P(BlockDeviceTest, AFullHostDiskIsAnIoErrorAndALogLine) {
  make();
  const std::uint64_t data = harness->allocator.allocate(512);
  engine->results = {-ENOSPC, -ENOSPC};
  EXPECT_EQ(request(kOut, 0, data, 512).status, 1);
  EXPECT_EQ(request(kOut, 0, data, 512).status, 1);
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_NE(lines[0].find("No space left"), std::string::npos) << lines[0];
  EXPECT_NE(lines[0].find(path), std::string::npos);
  EXPECT_EQ(request(kOut, 0, data, 512).status, 0);
}

TEST_P(BlockDeviceTest, AFileThatWasCutIsAnIoError) {
  make();
  ASSERT_EQ(::truncate(path.c_str(), 4096), 0);
  const std::uint64_t data = harness->allocator.allocate(8192);
  EXPECT_EQ(request(kIn, 0, data, 4096).status, 0);
  EXPECT_EQ(request(kIn, 0, data, 8192).status, 1);
  EXPECT_EQ(request(kIn, 100, data, 512).status, 1);
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_NE(lines[0].find("shorter"), std::string::npos);
}

TEST_P(BlockDeviceTest, ResetWaitsForWhatIsUnderWay) {
  make();
  constexpr std::uint32_t kLength = 64 * 1024;
  constexpr std::uint32_t kRequests = 30;
  for (int round = 0; round < 20; round++) {
    const std::uint64_t data = harness->allocator.allocate(kRequests * (kLength + 1));
    for (std::uint32_t index = 0; index < kRequests; index++) {
      const bool reads = index % 2 == 0;
      const std::uint64_t header = harness->allocator.put(Header{reads ? kIn : kOut, 0, index / 2 * 128});
      const std::uint64_t own = data + index * (kLength + 1ULL);
      harness->queue(0).offer({{header, 16, false}, {own, kLength, reads}, {own + kLength, 1, true}});
    }
    harness->notify(0);
    harness->reset();
    // Nothing may reach guest memory any more.
    auto bytes = harness->memory->slice(data, kRequests * (kLength + 1));
    std::fill(bytes->begin(), bytes->end(), std::byte{0x55});
    loop->runOnce(std::chrono::milliseconds(1));
    EXPECT_TRUE(std::all_of(bytes->begin(), bytes->end(), [](std::byte value) { return value == std::byte{0x55}; }));
    harness.emplace(*device);
    ASSERT_TRUE(harness->activate());
  }
}

TEST_P(BlockDeviceTest, PauseFinishesRequestsAndTakesNoNewOnes) {
  make();
  const std::uint64_t data = harness->allocator.allocate(1024);
  const std::uint64_t header = harness->allocator.put(Header{kIn, 0, 0});
  harness->queue(0).offer({{header, 16, false}, {data, 512, true}, {data + 512, 1, true}});
  harness->notify(0);
  loop->runSync([&] { device->pause(); });
  EXPECT_TRUE(harness->queue(0).takeUsed());
  harness->queue(0).offer({{header, 16, false}, {data, 512, true}, {data + 512, 1, true}});
  harness->notify(0);
  loop->runOnce(std::chrono::milliseconds(5));
  EXPECT_FALSE(harness->queue(0).takeUsed());
  EXPECT_EQ(harness->deviceQueue(0).position().nextAvailable, 1);
  loop->runSync([&] { device->resume(); });
  harness->notify(0);
  EXPECT_EQ(waitUsed().written, 513U);
}

TEST_P(BlockDeviceTest, TwoWritersCannotShareADisk) {
  make();
  const auto other = DiskFile::open(path, false, {});
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, ErrorCode::kBusy);
  EXPECT_NE(other.error().message.find(path), std::string::npos);
  EXPECT_FALSE(DiskFile::open(path, true, {}));
  harness.reset();
  device.reset();
  make(true);
  EXPECT_TRUE(DiskFile::open(path, true, {}));
  EXPECT_FALSE(DiskFile::open(path, false, {}));
}

TEST_P(BlockDeviceTest, ASnapshotKnowsTheDisksSize) {
  make();
  StateWriter writer;
  device->save(writer);
  StateReader reader(writer.data());
  EXPECT_TRUE(device->restore(reader));
  harness.reset();
  device.reset();
  std::filesystem::resize_file(path, kDiskBytes / 2);
  make();
  StateReader again(writer.data());
  EXPECT_FALSE(device->restore(again));
}

// A ring's operations pass by every seccomp filter: it must know nothing but transfers on its own file.
TEST(IoUring, RefusesAllButTheDisksOperations) {
  const UniqueFd file(::memfd_create("disk", MFD_CLOEXEC));
  const auto engine = makeIoUringEngine(file.get(), 8);
  if (!engine) {
    // This host forbids io_uring; then disks are served by threads.
    const auto instead = makeIoEngine(file.get(), 8);
    ASSERT_TRUE(instead);
    EXPECT_STREQ((*instead)->name(), "threads");
    return;
  }
  // The ring as its thread has it mapped: 8 entries, the offsets of every kernel so far.
  const int ring = (*engine)->completionFd();
  void* mapped = ::mmap(nullptr, 8 * sizeof(io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
  ASSERT_NE(mapped, MAP_FAILED);
  const std::span<io_uring_sqe> entries(static_cast<io_uring_sqe*>(mapped), 8);
  char data[8] = {};
  iovec buffer{data, sizeof data};
  const auto resultOf = [&](void (*forge)(io_uring_sqe&)) {
    IoOperation operation{.kind = IoOperation::Kind::kWrite, .buffers = std::span(&buffer, 1)};
    static std::uint32_t next = 0;
    (*engine)->submit(operation);
    forge(entries[next++ % 8]);
    std::vector<IoOperation*> done;
    (*engine)->reap(done, true);
    return operation.result;
  };
  EXPECT_EQ(resultOf([](io_uring_sqe&) {}), 8);
  EXPECT_EQ(resultOf([](io_uring_sqe& entry) { entry.opcode = IORING_OP_OPENAT; }), -EACCES);
  EXPECT_EQ(resultOf([](io_uring_sqe& entry) { entry.opcode = IORING_OP_SOCKET; }), -EACCES);
  EXPECT_EQ(resultOf([](io_uring_sqe& entry) {
              entry.flags = 0;
              entry.fd = 2;
            }),
            -EACCES);
  EXPECT_EQ(resultOf([](io_uring_sqe& entry) { entry.flags |= IOSQE_IO_LINK; }), -EACCES);
  EXPECT_EQ(resultOf([](io_uring_sqe& entry) { entry.flags |= IOSQE_ASYNC; }), 8);
  EXPECT_EQ(resultOf([](io_uring_sqe&) {}), 8);
  ::munmap(mapped, 8 * sizeof(io_uring_sqe));
}

TEST(DiskFile, RefusesWhatIsNoDisk) {
  const std::string folder = ::testing::TempDir();
  EXPECT_EQ(DiskFile::open(folder + "/no-such-disk", false, {}).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(DiskFile::open(folder, true, {}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(DiskFile::open("/dev/null", false, {}).error().code, ErrorCode::kInvalidArgument);
  std::string path = folder + "odd-XXXXXX";
  const UniqueFd fd(::mkstemp(path.data()));
  EXPECT_EQ(DiskFile::open(path, false, {}).error().code, ErrorCode::kInvalidArgument);
  ASSERT_EQ(::ftruncate(fd.get(), 1300), 0);
  std::vector<std::string> lines;
  const auto odd = DiskFile::open(path, false, [&](std::string line) { lines.push_back(std::move(line)); });
  ASSERT_TRUE(odd);
  EXPECT_EQ(odd->bytes, 1024U);
  EXPECT_EQ(lines.size(), 1U);
  std::filesystem::remove(path);
}

TEST(BlockDevice, ChecksItsConfiguration) {
  auto loop = EventLoop::create("block");
  std::string path = ::testing::TempDir() + "config-XXXXXX";
  const UniqueFd fd(::mkstemp(path.data()));
  ASSERT_EQ(::ftruncate(fd.get(), 4096), 0);
  EXPECT_FALSE(BlockDevice::create(**loop, {.id = "a", .path = path, .queues = 0}));
  EXPECT_FALSE(BlockDevice::create(**loop, {.id = "a", .path = path, .queues = 65}));
  EXPECT_FALSE(BlockDevice::create(**loop, {.id = "longer-than-twenty-bytes", .path = path}));
  const auto made = BlockDevice::create(**loop, {.id = "exactly-twenty-bytes", .path = path});
  ASSERT_TRUE(made);
  EXPECT_EQ((*made)->name(), "block-exactly-twenty-bytes");
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace tshyve::virtio
