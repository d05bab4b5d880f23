#include "machine/event_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace tshyve {
namespace {

TEST(EventQueue, WakesTheConsumerOnceUntilItHasTaken) {
  EventQueue queue;
  EXPECT_TRUE(queue.push(ConsoleOutput{"a"}));
  EXPECT_FALSE(queue.push(MachineLog{"b"}));
  EXPECT_EQ(queue.take().size(), 2U);
  EXPECT_TRUE(queue.push(ConsoleOutput{"c"}));
}

TEST(EventQueue, JoinsConsoleOutputAndKeepsOrder) {
  EventQueue queue;
  queue.push(ConsoleOutput{"one "});
  queue.push(ConsoleOutput{"two"});
  queue.push(AddressAssigned{0, "02:00:00:00:00:01", "10.0.2.15", 60});
  queue.push(ConsoleOutput{"three"});
  const auto events = queue.take();
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(std::get<ConsoleOutput>(events[0]).bytes, "one two");
  EXPECT_EQ(std::get<AddressAssigned>(events[1]).address, "10.0.2.15");
  EXPECT_EQ(std::get<ConsoleOutput>(events[2]).bytes, "three");
}

TEST(EventQueue, KeepsTheAddressesOfSeveralMachinesOnOneNetwork) {
  EventQueue queue;
  queue.push(AddressAssigned{0, "02:00:00:00:00:01", "10.0.2.15", 0});
  queue.push(AddressAssigned{0, "02:00:00:00:00:02", "10.0.2.16", 0});
  queue.push(AddressAssigned{0, "02:00:00:00:00:01", "10.0.2.15", 0});
  EXPECT_EQ(queue.take().size(), 2U);
}

TEST(EventQueue, KeepsTheLastStateOfEachLink) {
  EventQueue queue;
  for (int round = 0; round < 1000; ++round) {
    queue.push(LinkChanged{0, false});
    queue.push(LinkChanged{1, true});
    queue.push(LinkChanged{0, true});
  }
  queue.push(LinkChanged{1, false});
  const auto events = queue.take();
  ASSERT_EQ(events.size(), 2U);
  EXPECT_TRUE(std::get<LinkChanged>(events[0]).up);
  EXPECT_FALSE(std::get<LinkChanged>(events[1]).up);
}

TEST(EventQueue, KeepsABoundedAmountAndSaysWhatIsMissing) {
  EventQueue queue;
  const std::string block(64 << 10, 'x');
  for (int round = 0; round < 20; ++round) {
    queue.push(ConsoleOutput{block});
    queue.push(AddressAssigned{0, "", "10.0.2." + std::to_string(round), 60});
    queue.push(AddressAssigned{1, "", "10.0.3." + std::to_string(round), 60});
  }
  for (int line = 0; line < 300; ++line) queue.push(MachineLog{"line"});
  queue.push(MachineExited{ExitReason::kShutdown, "off"});
  std::size_t bytes = 0;
  std::size_t addresses = 0;
  const auto events = queue.take();
  for (const auto& event : events) {
    if (const auto* console = std::get_if<ConsoleOutput>(&event)) bytes += console->bytes.size();
    if (const auto* address = std::get_if<AddressAssigned>(&event)) {
      ++addresses;
      EXPECT_THAT(address->address, testing::EndsWith(".19"));
    }
  }
  EXPECT_EQ(bytes, EventQueue::kMaxConsoleBytes);
  EXPECT_EQ(addresses, 2U);
  ASSERT_TRUE(std::holds_alternative<MachineExited>(events.back()));
  EXPECT_EQ(std::get<MachineLog>(events[events.size() - 2]).line,
            "the guest was faster than its reader: 262144 bytes of console and 44 log lines were dropped");
  EXPECT_TRUE(queue.take().empty());
}

TEST(EventQueue, ComplainsNowAndThenOnly) {
  EventQueue queue;
  const std::string flood(EventQueue::kMaxConsoleBytes + 1, 'x');
  queue.push(ConsoleOutput{flood});
  EXPECT_EQ(queue.take().size(), 2U);
  queue.push(ConsoleOutput{flood});
  EXPECT_EQ(queue.take().size(), 1U);
  queue.push(MachineExited{ExitReason::kKilled, "gone"});
  EXPECT_EQ(std::get<MachineLog>(queue.take().front()).line,
            "the guest was faster than its reader: 1 bytes of console and 0 log lines were dropped");
}

}  // namespace
}  // namespace tshyve
