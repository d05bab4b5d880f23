#include "base/event_loop.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>

namespace tshyve {
namespace {

using std::chrono::milliseconds;

TEST(EventLoop, CallsBackForReadableDescriptors) {
  auto loop = EventLoop::create("test");
  ASSERT_TRUE(loop);
  auto event = EventFd::create();
  ASSERT_TRUE(event);
  std::uint64_t seen = 0;
  auto watch = (*loop)->watch(event->fd(), EPOLLIN, [&](std::uint32_t) { seen += event->drain(); });
  ASSERT_TRUE(watch);
  EXPECT_EQ((*loop)->runOnce(milliseconds(0)), 0);
  event->signal();
  event->signal();
  EXPECT_EQ((*loop)->runOnce(milliseconds(100)), 1);
  EXPECT_EQ(seen, 2U);
  watch->reset();
  event->signal();
  EXPECT_EQ((*loop)->runOnce(milliseconds(0)), 0);
}

TEST(EventLoop, ACallbackMayEndItsOwnWatch) {
  auto loop = EventLoop::create("test");
  auto event = EventFd::create();
  EventLoop::Watch watch;
  int calls = 0;
  auto made = (*loop)->watch(event->fd(), EPOLLIN, [&](std::uint32_t) {
    calls++;
    watch.reset();
  });
  ASSERT_TRUE(made);
  watch = std::move(*made);
  event->signal();
  (*loop)->runOnce(milliseconds(100));
  (*loop)->runOnce(milliseconds(0));
  EXPECT_EQ(calls, 1);
}

TEST(EventLoop, RunsTasksOnItsThreadAndWaitsForThem) {
  auto loop = EventLoop::create("test");
  (*loop)->start();
  bool onLoop = false;
  (*loop)->runSync([&] { onLoop = (*loop)->isCurrent(); });
  EXPECT_TRUE(onLoop);
  EXPECT_FALSE((*loop)->isCurrent());
  (*loop)->stop();
  bool ran = false;
  (*loop)->runSync([&] { ran = true; });
  EXPECT_TRUE(ran);
}

TEST(EventLoop, TimersFireOnceUntilArmedAgain) {
  auto loop = EventLoop::create("test");
  int fired = 0;
  auto timer = EventLoop::Timer::create(**loop, [&] { fired++; });
  ASSERT_TRUE(timer);
  (*timer)->arm(milliseconds(1));
  (*loop)->runOnce(milliseconds(1000));
  EXPECT_EQ((*loop)->runOnce(milliseconds(5)), 0);
  EXPECT_EQ(fired, 1);
  (*timer)->arm(milliseconds(1));
  (*timer)->disarm();
  EXPECT_EQ((*loop)->runOnce(milliseconds(5)), 0);
}

}  // namespace
}  // namespace tshyve
