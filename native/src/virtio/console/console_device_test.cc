#include "virtio/console/console_device.h"

#include <gtest/gtest.h>

#include <thread>

#include "virtio/testing/guest_driver.h"

namespace tshyve::virtio {
namespace {

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

class ConsoleDeviceTest : public ::testing::Test {
 protected:
  /// Runs what is posted to the loop.
  void settle() { loop->runOnce(std::chrono::milliseconds(0)); }
  std::string guestText(std::uint64_t address, std::size_t size) const {
    std::string text(size, '\0');
    EXPECT_TRUE(harness.memory->readBytes(address, std::as_writable_bytes(std::span(text))));
    return text;
  }

  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create("console").value());
  std::string output;
  ConsoleDevice device{*loop, [this](std::string text) { output += text; }};
  test::DeviceHarness harness{device};
};

TEST_F(ConsoleDeviceTest, HandsOnWhatTheGuestPrints) {
  ASSERT_TRUE(harness.activate());
  const std::uint64_t text = harness.allocator.put(bytes("hello, world"));
  harness.queue(1).offer({{text, 7, false}, {text + 7, 5, false}});
  harness.queue(1).offer({{text, 5, false}});
  harness.notify(1);
  EXPECT_EQ(output, "hello, worldhello");
  EXPECT_EQ(harness.queue(1).takeUsed()->written, 0U);
  EXPECT_EQ(harness.signals.interruptsOf(1), 1U);
}

TEST_F(ConsoleDeviceTest, CutsWhatNoDriverWouldSend) {
  ASSERT_TRUE(harness.activate());
  const std::uint64_t text = harness.allocator.allocate(ConsoleDevice::kMaxOutput + 1);
  harness.queue(1).offer({{text, ConsoleDevice::kMaxOutput + 1, false}});
  harness.notify(1);
  EXPECT_EQ(output.size(), ConsoleDevice::kMaxOutput);
}

TEST_F(ConsoleDeviceTest, InputGoesIntoBuffersAsTheyCome) {
  ASSERT_TRUE(harness.activate(kFeatureVersion1));
  ASSERT_TRUE(device.receive(bytes("before there is a buffer")));
  settle();
  EXPECT_FALSE(harness.queue(0).takeUsed());
  const std::uint64_t first = harness.allocator.allocate(16);
  const std::uint64_t second = harness.allocator.allocate(16);
  harness.queue(0).offer({{first, 4, true}, {first + 4, 2, true}});
  harness.queue(0).offer({{second, 16, true}});
  harness.notify(0);
  EXPECT_EQ(harness.queue(0).takeUsed()->written, 6U);
  EXPECT_EQ(guestText(first, 6), "before");
  EXPECT_EQ(harness.queue(0).takeUsed()->written, 16U);
  EXPECT_EQ(guestText(second, 16), " there is a buff");
  harness.queue(0).offer({{first, 16, true}});
  harness.notify(0);
  EXPECT_EQ(harness.queue(0).takeUsed()->written, 2U);
  EXPECT_EQ(harness.signals.interruptsOf(0), 2U);
  // A buffer that waits is filled without a further notification.
  harness.queue(0).offer({{second, 16, true}});
  harness.notify(0);
  EXPECT_FALSE(harness.queue(0).takeUsed());
  ASSERT_TRUE(device.receive(bytes("x")));
  settle();
  EXPECT_EQ(harness.queue(0).takeUsed()->written, 1U);
}

TEST_F(ConsoleDeviceTest, AGuestThatDoesNotReadCostsBoundedMemory) {
  const std::string half(ConsoleDevice::kMaxInput / 2 + 1, 'x');
  ASSERT_TRUE(device.receive(bytes(half)));
  const auto refused = device.receive(bytes(half));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kBusy);
}

TEST_F(ConsoleDeviceTest, PausedItLeavesBuffersAlone) {
  ASSERT_TRUE(harness.activate());
  const std::uint64_t buffer = harness.allocator.allocate(16);
  harness.queue(0).offer({{buffer, 16, true}});
  device.pause();
  ASSERT_TRUE(device.receive(bytes("later")));
  settle();
  EXPECT_FALSE(harness.queue(0).takeUsed());
  device.resume();
  harness.notify(0);
  EXPECT_EQ(harness.queue(0).takeUsed()->written, 5U);
}

TEST_F(ConsoleDeviceTest, WaitingInputIsPartOfASnapshot) {
  ASSERT_TRUE(device.receive(bytes("saved")));
  StateWriter writer;
  device.save(writer);
  ConsoleDevice other{*loop, [](const std::string&) {}};
  StateReader reader(writer.data());
  ASSERT_TRUE(other.restore(reader));
  test::DeviceHarness second{other};
  ASSERT_TRUE(second.activate());
  const std::uint64_t buffer = second.allocator.allocate(16);
  second.queue(0).offer({{buffer, 16, true}});
  second.notify(0);
  EXPECT_EQ(second.queue(0).takeUsed()->written, 5U);
  StateReader cut(writer.data().first(writer.data().size() - 1));
  EXPECT_FALSE(other.restore(cut));
}

TEST_F(ConsoleDeviceTest, ABrokenDriverHasToReset) {
  ASSERT_TRUE(harness.activate());
  harness.queue(1).offerHead(9999);
  harness.notify(1);
  EXPECT_TRUE(harness.signals.broken);
  ASSERT_TRUE(device.receive(bytes("x")));
  settle();
  ASSERT_TRUE(harness.activate());
  const std::uint64_t buffer = harness.allocator.allocate(16);
  harness.queue(0).offer({{buffer, 16, true}});
  harness.notify(0);
  EXPECT_EQ(harness.queue(0).takeUsed()->written, 1U);
}

TEST(ConsoleDevice, TakesInputFromOtherThreads) {
  auto loop = std::move(EventLoop::create("console").value());
  loop->start();
  ConsoleDevice device(*loop, [](const std::string&) {});
  test::DeviceHarness harness(device);
  ASSERT_TRUE(harness.activate());
  const std::uint64_t buffer = harness.allocator.allocate(64);
  harness.queue(0).offer({{buffer, 64, true}});
  std::thread writer([&] { EXPECT_TRUE(device.receive(bytes("from afar"))); });
  writer.join();
  loop->runSync([] {});
  EXPECT_EQ(harness.queue(0).takeUsed()->written, 9U);
  harness.reset();
  loop->stop();
}

TEST(ConsoleDevice, InputOnItsWayToADeviceThatEndedIsDropped) {
  auto loop = std::move(EventLoop::create("console").value());
  {
    ConsoleDevice device(*loop, [](const std::string&) {});
    ASSERT_TRUE(device.receive(bytes("x")));
  }
  EXPECT_EQ(loop->runOnce(std::chrono::milliseconds(0)), 1);
}

}  // namespace
}  // namespace tshyve::virtio
