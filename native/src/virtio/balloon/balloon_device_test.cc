#include "virtio/balloon/balloon_device.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "virtio/testing/guest_driver.h"

namespace tshyve::virtio {
namespace {

constexpr std::uint64_t kPage = 4096;

struct [[gnu::packed]] Statistic {
  std::uint16_t tag;
  std::uint64_t value;
};

class BalloonDeviceTest : public ::testing::TestWithParam<GuestMemory::Backing> {
 protected:
  /// Memory that is not zero, so that it shows when it was given back.
  std::uint64_t usedPages(std::uint64_t count) {
    const std::uint64_t address = harness.allocator.allocate(count * kPage, kPage);
    for (std::uint64_t page = 0; page < count; page++) {
      EXPECT_TRUE(harness.memory->write<std::uint64_t>(address + page * kPage, 0x1234));
    }
    return address;
  }
  [[nodiscard]] bool isGone(std::uint64_t address) const {
    return harness.memory->read<std::uint64_t>(address) == std::uint64_t{0};
  }
  std::uint64_t putPageNumbers(const std::vector<std::uint32_t>& numbers) {
    return harness.allocator.put(std::as_bytes(std::span(numbers)));
  }
  void settle() { loop->runOnce(std::chrono::milliseconds(0)); }
  std::uint32_t readConfig(std::uint32_t offset) {
    std::uint32_t value = 0;
    device.readConfig(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }

  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create("balloon").value());
  BalloonDevice device{*loop};
  test::DeviceHarness harness{device, 16 << 20, 128, GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Backings, BalloonDeviceTest,
                         testing::Values(GuestMemory::Backing::kPrivate, GuestMemory::Backing::kShared));

TEST_P(BalloonDeviceTest, TellsTheGuestItsTarget) {
  ASSERT_TRUE(harness.activate());
  device.setTarget(8 * kPage + 5);
  settle();
  EXPECT_EQ(harness.signals.configChanges, 1U);
  EXPECT_EQ(readConfig(0), 8U);
  const std::uint32_t actual = 3;
  device.writeConfig(4, std::as_bytes(std::span(&actual, 1)));
  EXPECT_EQ(device.actualBytes(), 3 * kPage);
  EXPECT_EQ(readConfig(4), 3U);
  EXPECT_EQ(readConfig(8), 0U) << "beyond the structure";
  device.setTarget(UINT64_MAX);
  EXPECT_EQ(readConfig(0), UINT32_MAX);
}

TEST_P(BalloonDeviceTest, IgnoresOddConfigurationWrites) {
  const std::uint64_t value = ~0ULL;
  const auto bytes = std::as_bytes(std::span(&value, 1));
  device.writeConfig(0, bytes.first(4));
  device.writeConfig(4, bytes.first(2));
  device.writeConfig(5, bytes.first(4));
  device.writeConfig(UINT32_MAX, bytes.first(4));
  EXPECT_EQ(readConfig(0), 0U);
  EXPECT_EQ(device.actualBytes(), 0U);
}

TEST_P(BalloonDeviceTest, InflatingGivesPagesBack) {
  ASSERT_TRUE(harness.activate());
  const std::uint64_t pages = usedPages(6);
  const auto number = static_cast<std::uint32_t>(pages / kPage);
  // Out of order, a gap, one page twice, pages that are no RAM.
  const auto list = putPageNumbers({number + 2, number + 1, number + 1, number + 4, 0xffffffff, 0x00ffffff});
  harness.queue(0).offer({{list, 24, false}});
  harness.notify(0);
  ASSERT_TRUE(harness.queue(0).takeUsed());
  EXPECT_EQ(harness.signals.interruptsOf(0), 1U);
  for (const unsigned index : {1U, 2U, 4U}) EXPECT_TRUE(isGone(pages + index * kPage)) << index;
  for (const unsigned index : {0U, 3U, 5U}) EXPECT_FALSE(isGone(pages + index * kPage)) << index;
  harness.queue(1).offer({{list, 24, false}});
  harness.notify(1);
  EXPECT_TRUE(harness.queue(1).takeUsed()) << "deflated";
}

TEST_P(BalloonDeviceTest, BreaksOnListsNoDriverSends) {
  ASSERT_TRUE(harness.activate());
  const std::uint64_t list = harness.allocator.allocate(BalloonDevice::kMaxPages * 4 + 4);
  harness.queue(0).offer({{list, BalloonDevice::kMaxPages * 4 + 4, false}});
  harness.notify(0);
  EXPECT_TRUE(harness.signals.broken);
}

TEST_P(BalloonDeviceTest, ReportedPagesGoBackWhole) {
  ASSERT_TRUE(harness.activate());
  const std::uint64_t pages = usedPages(6);
  // The second buffer covers one page wholly and two in part.
  harness.queue(3).offer(
      {{pages, kPage, true}, {pages + kPage + 8, 3 * kPage - 16, true}, {pages + 4 * kPage, 100, true}});
  harness.notify(3);
  ASSERT_TRUE(harness.queue(3).takeUsed());
  EXPECT_TRUE(isGone(pages));
  EXPECT_FALSE(isGone(pages + kPage));
  EXPECT_TRUE(isGone(pages + 2 * kPage));
  EXPECT_FALSE(isGone(pages + 3 * kPage));
  EXPECT_FALSE(isGone(pages + 4 * kPage));
  EXPECT_EQ(device.reportedBytes(), 2 * kPage);
}

TEST_P(BalloonDeviceTest, QueuesFollowTheFeaturesTheDriverTook) {
  ASSERT_TRUE(harness.activate(kFeatureVersion1 | BalloonDevice::kFeaturePageReporting));
  const std::uint64_t pages = usedPages(1);
  harness.queue(2).offer({{pages, kPage, true}});
  harness.notify(2);
  EXPECT_TRUE(isGone(pages)) << "without statistics, reporting has the third queue";
  harness.queue(3).offer({{pages, kPage, true}});
  harness.notify(3);
  EXPECT_FALSE(harness.queue(3).takeUsed()) << "and the fourth is nobody's";
}

TEST_P(BalloonDeviceTest, AsksForStatistics) {
  ASSERT_TRUE(harness.activate());
  std::vector<BalloonStatistics> seen;
  device.requestStatistics([&](const BalloonStatistics& statistics) { seen.push_back(statistics); });
  settle();
  EXPECT_TRUE(seen.empty()) << "the driver has lent no buffer yet";
  const Statistic first[] = {{4, 1000}, {5, 2000}};
  const std::uint64_t buffer = harness.allocator.put(std::as_bytes(std::span(first)));
  harness.queue(2).offer({{buffer, sizeof first, false}});
  harness.notify(2);
  ASSERT_EQ(seen.size(), 1U);
  EXPECT_EQ(seen[0], (BalloonStatistics{{4, 1000}, {5, 2000}}));
  EXPECT_FALSE(harness.queue(2).takeUsed()) << "the device keeps the buffer until it asks again";

  device.requestStatistics([&](const BalloonStatistics& statistics) { seen.push_back(statistics); });
  settle();
  EXPECT_TRUE(harness.queue(2).takeUsed());
  EXPECT_EQ(harness.signals.interruptsOf(2), 1U);
  const Statistic second[] = {{4, 1001}};
  harness.queue(2).offer({{harness.allocator.put(std::as_bytes(std::span(second))), sizeof second, false}});
  harness.notify(2);
  ASSERT_EQ(seen.size(), 2U);
  EXPECT_EQ(seen[1], (BalloonStatistics{{4, 1001}}));
}

TEST_P(BalloonDeviceTest, TakesABoundedNumberOfStatistics) {
  ASSERT_TRUE(harness.activate());
  std::vector<Statistic> many(1000);
  for (std::size_t index = 0; index < many.size(); index++) many[index] = {static_cast<std::uint16_t>(index), 1};
  std::size_t count = 0;
  device.requestStatistics([&](const BalloonStatistics& statistics) { count = statistics.size(); });
  settle();
  const std::uint64_t buffer = harness.allocator.put(std::as_bytes(std::span(many)));
  harness.queue(2).offer({{buffer, 10007 - 7, false}});
  harness.queue(2).offer({{buffer, 3, false}});
  harness.notify(2);
  EXPECT_EQ(count, 64U);
  EXPECT_TRUE(harness.queue(2).takeUsed()) << "a second buffer releases the first";
  EXPECT_FALSE(harness.queue(2).takeUsed());
}

TEST_P(BalloonDeviceTest, APausedDeviceTouchesNothing) {
  ASSERT_TRUE(harness.activate());
  const std::uint64_t pages = usedPages(1);
  device.pause();
  harness.queue(3).offer({{pages, kPage, true}});
  harness.notify(3);
  EXPECT_FALSE(isGone(pages));
  device.resume();
  harness.notify(3);
  EXPECT_TRUE(isGone(pages));
}

TEST_P(BalloonDeviceTest, SavesItsConfiguration) {
  device.setTarget(5 * kPage);
  const std::uint32_t actual = 4;
  device.writeConfig(4, std::as_bytes(std::span(&actual, 1)));
  StateWriter writer;
  device.save(writer);
  BalloonDevice other{*loop};
  StateReader reader(writer.data());
  ASSERT_TRUE(other.restore(reader));
  EXPECT_EQ(other.actualBytes(), 4 * kPage);
  EXPECT_EQ(reader.remaining(), 0U);
  StateReader cut(writer.data().first(writer.data().size() - 1));
  EXPECT_FALSE(other.restore(cut));
}

TEST_P(BalloonDeviceTest, ResetTakesTheBalloonOut) {
  ASSERT_TRUE(harness.activate());
  const std::uint32_t actual = 4;
  device.writeConfig(4, std::as_bytes(std::span(&actual, 1)));
  harness.reset();
  EXPECT_EQ(device.actualBytes(), 0U);
  device.setTarget(kPage);
  settle();
  EXPECT_EQ(harness.signals.configChanges, 0U) << "nobody to tell";
}

}  // namespace
}  // namespace tshyve::virtio
