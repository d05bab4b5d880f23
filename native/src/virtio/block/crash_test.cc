// What a guest has flushed is on the disk, whenever the process that runs the machine dies.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "virtio/block/block_device.h"
#include "virtio/testing/guest_driver.h"

namespace tshyve::virtio {
namespace {

constexpr std::uint64_t kSectors = 64;
constexpr int kBatch = 8;

/// The guest: writes numbers, each to the next sector, flushes after every batch and reports how far it has flushed.
/// Never returns.
[[noreturn]] void writeForEver(const std::string& path, std::uint64_t number, int report) {
  auto loop = EventLoop::create("crash");
  auto device = BlockDevice::create(**loop, {.id = "crash", .path = path});
  if (!device) ::_exit(1);
  test::DeviceHarness harness(**device);
  if (!harness.activate()) ::_exit(1);
  struct Slot {
    std::uint64_t header;
    std::uint64_t data;
    std::uint64_t status;
  };
  std::vector<Slot> slots;
  for (int index = 0; index <= kBatch; index++) {
    slots.push_back({harness.allocator.allocate(16), harness.allocator.allocate(512), harness.allocator.allocate(1)});
  }
  struct Header {
    std::uint32_t type;
    std::uint32_t reserved;
    std::uint64_t sector;
  };
  const auto wait = [&](int count) {
    while (count > 0) {
      while (harness.queue(0).takeUsed()) count--;
      if (count > 0) (*loop)->runOnce(std::chrono::milliseconds(100));
    }
  };
  for (;;) {
    for (int index = 0; index < kBatch; index++, number++) {
      const Slot& slot = slots[static_cast<std::size_t>(index)];
      if (!harness.memory->write(slot.header, Header{1, 0, number % kSectors}) ||
          !harness.memory->write(slot.data, number)) {
        ::_exit(1);
      }
      harness.queue(0).offer({{slot.header, 16, false}, {slot.data, 512, false}, {slot.status, 1, true}});
    }
    harness.notify(0);
    wait(kBatch);
    const Slot& flush = slots.back();
    if (!harness.memory->write(flush.header, Header{4, 0, 0})) ::_exit(1);
    harness.queue(0).offer({{flush.header, 16, false}, {flush.status, 1, true}});
    harness.notify(0);
    wait(1);
    const bool flushed = harness.memory->read<std::uint8_t>(flush.status) == std::uint8_t{0};
    if (!flushed || ::write(report, &number, sizeof number) != sizeof number) ::_exit(1);
  }
}

TEST(BlockCrash, WhatWasFlushedSurvivesAHundredKills) {
  std::string path = ::testing::TempDir() + "crash-XXXXXX";
  ::close(::mkstemp(path.data()));
  std::filesystem::resize_file(path, kSectors * 512);
  std::minstd_rand random(7);
  std::uint64_t next = 1;
  std::uint64_t flushes = 0;
  for (int round = 0; round < 100; round++) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const UniqueFd reading(ends[0]);
    UniqueFd writing(ends[1]);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) writeForEver(path, next, writing.get());
    writing.reset();
    // The first report, and then some time more.
    std::uint64_t flushedTo = 0;
    ASSERT_EQ(::read(reading.get(), &flushedTo, sizeof flushedTo), 8) << "the guest's process has failed";
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 5000));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
    flushes++;
    while (::read(reading.get(), &flushedTo, sizeof flushedTo) == 8) flushes++;
    // Everything below has been flushed: its sector holds it, or what was written there later.
    std::ifstream disk(path, std::ios::binary);
    for (std::uint64_t number = flushedTo > kSectors ? flushedTo - kSectors : 1; number < flushedTo; number++) {
      std::uint64_t found = 0;
      disk.seekg(static_cast<std::streamoff>(number % kSectors * 512));
      disk.read(reinterpret_cast<char*>(&found), sizeof found);
      ASSERT_GE(found, number) << "round " << round;
      ASSERT_EQ(found % kSectors, number % kSectors) << "round " << round;
    }
    next = flushedTo;
  }
  EXPECT_GE(flushes, 100U);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace tshyve::virtio
