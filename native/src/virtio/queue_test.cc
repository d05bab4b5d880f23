#include "virtio/queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "virtio/features.h"
#include "virtio/testing/guest_driver.h"

namespace tshyve::virtio {
namespace {

using test::GuestAllocator;
using test::GuestQueue;

constexpr std::uint16_t kNext = 1;
constexpr std::uint16_t kIndirect = 4;
constexpr std::uint64_t kMemoryBytes = 1 << 20;

class QueueTest : public ::testing::Test {
 protected:
  void make(std::uint16_t size, std::uint64_t features = 0) {
    guest.emplace(*memory, allocator, size);
    auto made = Queue::create(*memory, guest->layout(), features);
    ASSERT_TRUE(made) << made.error().message;
    queue = std::move(*made);
  }
  /// Whether a chain was there; fails the test on an error.
  bool pop() {
    auto popped = queue->pop(chain);
    EXPECT_TRUE(popped) << (popped ? "" : popped.error().message);
    return popped && *popped;
  }
  std::string popError() {
    auto popped = queue->pop(chain);
    return popped ? "no error" : popped.error().message;
  }

  std::unique_ptr<GuestMemory> memory = test::makeMemory(kMemoryBytes);
  GuestAllocator allocator{*memory};
  std::optional<GuestQueue> guest;
  std::unique_ptr<Queue> queue;
  Chain chain;
};

TEST_F(QueueTest, PublishesSeveralChainsAtOnce) {
  make(4);
  const std::uint64_t address = allocator.allocate(16);
  // Round the end of the ring.
  for (std::uint32_t round = 0; round < 6; round++) {
    guest->offer({{address, 16, true}});
    guest->offer({{address, 16, true}});
    UsedChain used[2];
    for (UsedChain& entry : used) {
      ASSERT_TRUE(pop());
      entry = {chain.head, round};
    }
    queue->push(used);
    for (const UsedChain& entry : used) {
      const auto taken = guest->takeUsed();
      ASSERT_TRUE(taken);
      EXPECT_EQ(taken->head, entry.head);
      EXPECT_EQ(taken->written, round);
    }
    EXPECT_FALSE(guest->takeUsed());
  }
}

TEST_F(QueueTest, PopsWhatTheDriverOffersAndGivesItBack) {
  make(8);
  EXPECT_TRUE(queue->empty());
  EXPECT_FALSE(pop());
  const std::uint64_t text = allocator.put(std::as_bytes(std::span("hello", 5)));
  const std::uint64_t answer = allocator.allocate(16);
  const std::uint16_t head = guest->offer({{text, 3, false}, {text + 3, 2, false}, {answer, 16, true}});
  EXPECT_FALSE(queue->empty());
  ASSERT_TRUE(pop());
  EXPECT_EQ(chain.head, head);
  EXPECT_EQ(chain.readableBytes(), 5U);
  EXPECT_EQ(chain.writableBytes(), 16U);
  char out[8] = {};
  EXPECT_EQ(chain.copyOut(1, std::as_writable_bytes(std::span(out))), 4U);
  EXPECT_STREQ(out, "ello");
  EXPECT_TRUE(chain.write<std::uint32_t>(4, 0x1234));
  EXPECT_FALSE(chain.write<std::uint32_t>(13, 1));
  queue->push(chain.head, 8);
  const auto used = guest->takeUsed();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->head, head);
  EXPECT_EQ(used->written, 8U);
  EXPECT_EQ(memory->read<std::uint32_t>(answer + 4), 0x1234U);
  EXPECT_FALSE(guest->takeUsed());
  EXPECT_FALSE(pop());
}

TEST_F(QueueTest, KeepsCountAcrossTheWrapOfItsIndexes) {
  make(4);
  const std::uint64_t buffer = allocator.allocate(4);
  for (int round = 0; round < 70'000; round++) {
    const std::uint16_t head = guest->offer({{buffer, 4, true}});
    ASSERT_TRUE(pop());
    queue->push(chain.head, 4);
    ASSERT_EQ(guest->takeUsed()->head, head);
  }
  EXPECT_EQ(queue->position().nextAvailable, 70'000 % 65'536);
  EXPECT_EQ(queue->position().nextUsed, 70'000 % 65'536);
}

TEST_F(QueueTest, FollowsIndirectTables) {
  make(4, kFeatureIndirectDescriptors);
  const std::uint64_t data = allocator.allocate(64);
  guest->offerIndirect({{data, 16, false}, {data + 16, 16, false}, {data + 32, 1, true}});
  ASSERT_TRUE(pop());
  EXPECT_EQ(chain.readable.size(), 2U);
  EXPECT_EQ(chain.writable.size(), 1U);
}

TEST_F(QueueTest, AnIndirectTableMayFollowDirectDescriptors) {
  make(4, kFeatureIndirectDescriptors);
  const std::uint64_t data = allocator.allocate(64);
  guest->offerIndirect({{data, 16, false}, {data + 16, 16, true}});
  guest->writeDescriptor(1, data, 8, kNext, 0);
  guest->offerHead(1);
  ASSERT_TRUE(pop());
  ASSERT_TRUE(pop());
  EXPECT_EQ(chain.readable.size(), 2U);
  EXPECT_EQ(chain.writable.size(), 1U);
}

TEST_F(QueueTest, ChecksTheRings) {
  const auto error = [&](QueueLayout layout) {
    auto made = Queue::create(*memory, layout, 0);
    return made ? "no error" : made.error().message;
  };
  const QueueLayout good{8, 0x1000, 0x2000, 0x3000};
  EXPECT_EQ(error(good), "no error");
  for (const std::uint16_t size : std::initializer_list<std::uint16_t>{0, 3, 2048, 0xffff}) {
    EXPECT_NE(error({size, 0x1000, 0x2000, 0x3000}), "no error") << size;
  }
  EXPECT_NE(error({8, 0x1008, 0x2000, 0x3000}), "no error");
  EXPECT_NE(error({8, 0x1000, 0x2001, 0x3000}), "no error");
  EXPECT_NE(error({8, 0x1000, 0x2000, 0x3002}), "no error");
  // The last byte of each ring is the first that is not RAM.
  EXPECT_EQ(error({8, kMemoryBytes - 128, 0x2000, 0x3000}), "no error");
  EXPECT_NE(error({8, kMemoryBytes - 112, 0x2000, 0x3000}), "no error");
  EXPECT_NE(error({8, 0x1000, kMemoryBytes - 20, 0x3000}), "no error");
  EXPECT_NE(error({8, 0x1000, 0x2000, kMemoryBytes - 68}), "no error");
  EXPECT_NE(error({8, UINT64_MAX - 15, 0x2000, 0x3000}), "no error");
}

struct HostileCase {
  const char* name;
  void (*build)(GuestQueue& guest, GuestAllocator& allocator);
  const char* message;
};

class HostileQueueTest : public QueueTest, public ::testing::WithParamInterface<HostileCase> {};

TEST_P(HostileQueueTest, BreaksTheQueueAndNothingElse) {
  make(8, kFeatureIndirectDescriptors);
  GetParam().build(*guest, allocator);
  const std::string message = popError();
  EXPECT_NE(message.find(GetParam().message), std::string::npos) << message;
  // It stays broken, whatever is offered next.
  guest->offer({{0x1000, 4, true}});
  EXPECT_EQ(popError(), message);
}

// A table at a fresh address, then the indirect descriptor 0 that points to it.
void offerTable(GuestQueue& guest, GuestAllocator& allocator, std::uint16_t flags, std::uint16_t next,
                std::uint32_t length) {
  struct {
    std::uint64_t address = 0x1000;
    std::uint32_t length = 16;
    std::uint16_t flags;
    std::uint16_t next;
  } entry;
  entry.flags = flags;
  entry.next = next;
  guest.writeDescriptor(0, allocator.put(entry), length, kIndirect, 0);
  guest.offerHead(0);
}

const HostileCase kHostileCases[] = {
    {"IndexJump", [](GuestQueue& guest, GuestAllocator&) { guest.setAvailableIndex(9); }, "jumped"},
    {"IndexGoesBack", [](GuestQueue& guest, GuestAllocator&) { guest.setAvailableIndex(0xffff); }, "jumped"},
    {"HeadBeyondEnd", [](GuestQueue& guest, GuestAllocator&) { guest.offerHead(8); }, "beyond the queue's end"},
    {"NextBeyondEnd",
     [](GuestQueue& guest, GuestAllocator&) {
       guest.writeDescriptor(0, 0x1000, 4, kNext, 0x8000);
       guest.offerHead(0);
     },
     "beyond the queue's end"},
    {"Loop",
     [](GuestQueue& guest, GuestAllocator&) {
       guest.writeDescriptor(0, 0x1000, 4, kNext, 1);
       guest.writeDescriptor(1, 0x1000, 4, kNext, 0);
       guest.offerHead(0);
     },
     "loop"},
    {"ZeroLength",
     [](GuestQueue& guest, GuestAllocator&) {
       guest.offer({{0x1000, 0, true}});
     },
     "length zero"},
    {"OutsideRam",
     [](GuestQueue& guest, GuestAllocator&) {
       guest.offer({{kMemoryBytes - 3, 4, true}});
     },
     "outside RAM"},
    {"AddressOverflow",
     [](GuestQueue& guest, GuestAllocator&) {
       guest.offer({{UINT64_MAX - 1, 4, true}});
     },
     "outside RAM"},
    {"ReadableAfterWritable",
     [](GuestQueue& guest, GuestAllocator&) {
       guest.offer({{0x1000, 4, true}, {0x1000, 4, false}});
     },
     "readable descriptor after"},
    {"IndirectWithNext",
     [](GuestQueue& guest, GuestAllocator&) {
       guest.writeDescriptor(0, 0x1000, 16, kIndirect | kNext, 1);
       guest.offerHead(0);
     },
     "not the last"},
    {"IndirectLengthZero", [](GuestQueue& guest, GuestAllocator& a) { offerTable(guest, a, 0, 0, 0); }, "multiple"},
    {"IndirectLengthOdd", [](GuestQueue& guest, GuestAllocator& a) { offerTable(guest, a, 0, 0, 17); }, "multiple"},
    {"IndirectTooLong", [](GuestQueue& guest, GuestAllocator& a) { offerTable(guest, a, 0, 0, 1025 * 16); },
     "too long"},
    {"IndirectOutsideRam",
     [](GuestQueue& guest, GuestAllocator&) {
       guest.writeDescriptor(0, kMemoryBytes - 16, 32, kIndirect, 0);
       guest.offerHead(0);
     },
     "not in RAM"},
    {"IndirectNested", [](GuestQueue& guest, GuestAllocator& a) { offerTable(guest, a, kIndirect, 0, 16); },
     "within an indirect"},
    {"IndirectLoop", [](GuestQueue& guest, GuestAllocator& a) { offerTable(guest, a, kNext, 0, 16); }, "loop"},
    {"IndirectNextBeyondEnd", [](GuestQueue& guest, GuestAllocator& a) { offerTable(guest, a, kNext, 2, 32); },
     "beyond the table's end"},
};
INSTANTIATE_TEST_SUITE_P(Cases, HostileQueueTest, ::testing::ValuesIn(kHostileCases),
                         [](const auto& param) { return param.param.name; });

TEST_F(QueueTest, RefusesIndirectTablesThatWereNotNegotiated) {
  make(8);
  offerTable(*guest, allocator, 0, 0, 16);
  EXPECT_NE(popError().find("not negotiated"), std::string::npos);
}

TEST_F(QueueTest, RefusesChainsOfMoreThan4GiB) {
  const std::uint64_t bytes = 2ULL << 30;
  memory = test::makeMemory(bytes);
  GuestAllocator big(*memory);
  GuestQueue driver(*memory, big, 8);
  auto made = Queue::create(*memory, driver.layout(), 0);
  ASSERT_TRUE(made);
  driver.offer({{0, 0x7fffffff, true}, {0, 0x7fffffff, true}, {0, 1, true}});
  driver.offer({{0, 0x7fffffff, true}, {0, 0x7fffffff, true}, {0, 2, true}});
  auto first = (*made)->pop(chain);
  ASSERT_TRUE(first);
  EXPECT_EQ(chain.writableBytes(), 0xffffffffU);
  EXPECT_FALSE((*made)->pop(chain));
  made->reset();
}

TEST_F(QueueTest, UndoneChainsComeAgain) {
  make(4);
  const std::uint64_t buffer = allocator.allocate(8);
  guest->offer({{buffer, 4, true}});
  guest->offer({{buffer, 8, true}});
  ASSERT_TRUE(pop());
  ASSERT_TRUE(pop());
  EXPECT_FALSE(pop());
  queue->undoPop(2);
  ASSERT_TRUE(pop());
  EXPECT_EQ(chain.writableBytes(), 4U);
  ASSERT_TRUE(pop());
  EXPECT_EQ(chain.writableBytes(), 8U);
}

TEST_F(QueueTest, WithoutEventIndexTheFlagsDecide) {
  make(4);
  const std::uint64_t buffer = allocator.allocate(8);
  EXPECT_FALSE(queue->shouldInterrupt());
  guest->offer({{buffer, 4, true}});
  ASSERT_TRUE(pop());
  queue->push(chain.head, 0);
  EXPECT_TRUE(queue->shouldInterrupt());
  EXPECT_FALSE(queue->shouldInterrupt());
  guest->setAvailableFlags(1);
  guest->offer({{buffer, 4, true}});
  ASSERT_TRUE(pop());
  queue->push(chain.head, 0);
  EXPECT_FALSE(queue->shouldInterrupt());
  queue->disableNotifications();
  EXPECT_EQ(guest->usedFlags(), 1);
  guest->offer({{buffer, 4, true}});
  EXPECT_TRUE(queue->enableNotifications());
  EXPECT_EQ(guest->usedFlags(), 0);
  ASSERT_TRUE(pop());
  EXPECT_FALSE(queue->enableNotifications());
}

TEST_F(QueueTest, WithEventIndexTheDriverNamesTheMoment) {
  make(8, kFeatureEventIndex);
  const std::uint64_t buffer = allocator.allocate(8);
  const auto serve = [&](int count) {
    for (int done = 0; done < count; done++) {
      guest->offer({{buffer, 4, true}});
      ASSERT_TRUE(pop());
      queue->push(chain.head, 0);
    }
  };
  // used_event 0: the first one interrupts.
  serve(1);
  EXPECT_TRUE(queue->shouldInterrupt());
  guest->setUsedEvent(3);
  serve(2);
  EXPECT_FALSE(queue->shouldInterrupt());
  serve(2);
  EXPECT_TRUE(queue->shouldInterrupt());
  serve(1);
  EXPECT_FALSE(queue->shouldInterrupt());
}

TEST_F(QueueTest, WithEventIndexAnEmptyQueueAsksForTheNextBuffer) {
  make(8, kFeatureEventIndex);
  const std::uint64_t buffer = allocator.allocate(8);
  guest->offer({{buffer, 4, true}});
  guest->offer({{buffer, 4, true}});
  ASSERT_TRUE(pop());
  EXPECT_EQ(guest->availableEvent(), 0);
  ASSERT_TRUE(pop());
  EXPECT_FALSE(pop());
  EXPECT_EQ(guest->availableEvent(), 2);
  queue->disableNotifications();
  guest->offer({{buffer, 4, true}});
  ASSERT_TRUE(pop());
  EXPECT_FALSE(pop());
  EXPECT_EQ(guest->availableEvent(), 2);
  EXPECT_FALSE(queue->enableNotifications());
  EXPECT_EQ(guest->availableEvent(), 3);
}

TEST_F(QueueTest, ARestoredQueueGoesOnWhereItWasAndInterruptsOnceTooOften) {
  make(8, kFeatureEventIndex);
  const std::uint64_t buffer = allocator.allocate(8);
  guest->offer({{buffer, 4, true}});
  ASSERT_TRUE(pop());
  queue->push(chain.head, 0);
  EXPECT_TRUE(queue->shouldInterrupt());
  const QueuePosition position = queue->position();
  guest->offer({{buffer, 8, true}});
  auto restored = Queue::create(*memory, guest->layout(), kFeatureEventIndex, position);
  ASSERT_TRUE(restored);
  queue = std::move(*restored);
  EXPECT_TRUE(queue->shouldInterrupt());
  ASSERT_TRUE(pop());
  EXPECT_EQ(chain.writableBytes(), 8U);
  queue->push(chain.head, 0);
  EXPECT_FALSE(queue->shouldInterrupt());
}

// The handshake of the two rings under real concurrency: neither side may sleep for ever.
TEST_F(QueueTest, NoWakeUpIsLostBetweenTwoThreads) {
  for (const std::uint64_t features : {std::uint64_t{0}, kFeatureEventIndex}) {
    make(16, features);
    constexpr int kRounds = 20'000;
    const std::uint64_t buffer = allocator.allocate(4);
    std::atomic<std::uint32_t> kicks{0};
    std::atomic<std::uint32_t> interrupts{0};
    std::thread device([&] {
      int done = 0;
      std::uint32_t seen = 0;
      Chain own;
      while (done < kRounds) {
        kicks.wait(seen);
        seen = kicks.load();
        for (;;) {
          auto popped = queue->pop(own);
          if (!popped || !*popped) break;
          queue->push(own.head, 1);
          done++;
        }
        if (queue->shouldInterrupt()) {
          interrupts++;
          interrupts.notify_one();
        }
      }
    });
    std::uint16_t kicked = 0;
    int offered = 0;
    int taken = 0;
    while (taken < kRounds) {
      const std::uint32_t seen = interrupts.load();
      while (offered < kRounds && offered - taken < 16) {
        guest->offer({{buffer, 4, true}});
        offered++;
      }
      // virtqueue_kick of Linux: only if the device's event lies within what is new.
      std::atomic_thread_fence(std::memory_order_seq_cst);
      const std::uint16_t now = guest->availableIndex();
      const bool wanted = features == 0 ? guest->usedFlags() == 0
                                        : static_cast<std::uint16_t>(now - guest->availableEvent() - 1) <
                                              static_cast<std::uint16_t>(now - kicked);
      if (wanted && now != kicked) {
        kicks++;
        kicks.notify_one();
      }
      kicked = now;
      bool any = false;
      while (guest->takeUsed()) {
        taken++;
        any = true;
      }
      if (any) continue;
      if (features != 0) guest->setUsedEvent(static_cast<std::uint16_t>(taken));
      std::atomic_thread_fence(std::memory_order_seq_cst);
      if (guest->usedIndex() == static_cast<std::uint16_t>(taken)) interrupts.wait(seen);
    }
    device.join();
    EXPECT_EQ(taken, kRounds);
  }
}

}  // namespace
}  // namespace tshyve::virtio
