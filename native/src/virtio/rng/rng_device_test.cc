#include "virtio/rng/rng_device.h"

#include <gtest/gtest.h>

#include "virtio/testing/guest_driver.h"

namespace tshyve::virtio {
namespace {

class RngDeviceTest : public ::testing::Test {
 protected:
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create("rng").value());
  RngDevice device{*loop};
  test::DeviceHarness harness{device};
};

TEST_F(RngDeviceTest, FillsBuffersWithBytesThatDiffer) {
  ASSERT_TRUE(harness.activate());
  const std::uint64_t first = harness.allocator.allocate(32);
  const std::uint64_t second = harness.allocator.allocate(32);
  harness.queue(0).offer({{first, 32, true}});
  harness.queue(0).offer({{second, 16, true}, {second + 16, 16, true}});
  harness.notify(0);
  EXPECT_EQ(harness.queue(0).takeUsed()->written, 32U);
  EXPECT_EQ(harness.queue(0).takeUsed()->written, 32U);
  EXPECT_EQ(harness.signals.interruptsOf(0), 1U);
  EXPECT_NE(harness.memory->read<std::uint64_t>(first), harness.memory->read<std::uint64_t>(second));
  EXPECT_NE(harness.memory->read<std::uint64_t>(second + 8), harness.memory->read<std::uint64_t>(second + 16));
}

TEST_F(RngDeviceTest, AnswersAtMost64KiB) {
  ASSERT_TRUE(harness.activate());
  const std::uint64_t buffer = harness.allocator.allocate(100 << 10);
  harness.queue(0).offer({{buffer, 40 << 10, true}, {buffer + (40 << 10), 60 << 10, true}});
  harness.notify(0);
  EXPECT_EQ(harness.queue(0).takeUsed()->written, RngDevice::kMaxRequest);
  EXPECT_EQ(harness.memory->read<std::uint64_t>(buffer + RngDevice::kMaxRequest), 0U);
}

TEST_F(RngDeviceTest, IgnoresReadableBuffers) {
  ASSERT_TRUE(harness.activate());
  const std::uint64_t buffer = harness.allocator.allocate(64);
  harness.queue(0).offer({{buffer, 64, false}});
  harness.notify(0);
  EXPECT_EQ(harness.queue(0).takeUsed()->written, 0U);
  EXPECT_EQ(harness.memory->read<std::uint64_t>(buffer), 0U);
}

TEST_F(RngDeviceTest, ABrokenDriverHasToReset) {
  ASSERT_TRUE(harness.activate());
  harness.queue(0).offerHead(9999);
  harness.notify(0);
  EXPECT_TRUE(harness.signals.broken);
  harness.notify(0);
  EXPECT_EQ(harness.signals.interruptsOf(0), 0U);
  ASSERT_TRUE(harness.activate());
  harness.queue(0).offer({{harness.allocator.allocate(8), 8, true}});
  harness.notify(0);
  EXPECT_EQ(harness.queue(0).takeUsed()->written, 8U);
}

}  // namespace
}  // namespace tshyve::virtio
