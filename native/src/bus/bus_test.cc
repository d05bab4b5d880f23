#include "bus/bus.h"

#include <gtest/gtest.h>

#include <array>

namespace tshyve {
namespace {

class Recorder final : public BusDevice {
 public:
  void read(std::uint64_t offset, std::span<std::byte> data) override {
    for (std::byte& byte : data) byte = std::byte{static_cast<std::uint8_t>(offset)};
  }
  void write(std::uint64_t offset, std::span<const std::byte> data) override {
    lastOffset = offset;
    lastWidth = data.size();
  }
  std::uint64_t lastOffset = 0;
  std::size_t lastWidth = 0;
};

TEST(Bus, FindsTheDeviceAndLeavesTheRestOpen) {
  Bus bus;
  const auto device = std::make_shared<Recorder>();
  ASSERT_TRUE(bus.add(0x100, 8, device));
  std::array<std::byte, 4> data{};
  bus.read(0x104, data);
  EXPECT_EQ(data[3], std::byte{4});
  bus.write(0x106, std::span(data).first(2));
  EXPECT_EQ(device->lastOffset, 6U);
  EXPECT_EQ(device->lastWidth, 2U);
  for (const std::uint64_t address : {0xffUL, 0x105UL, 0x108UL, ~0UL, 0UL}) {
    bus.read(address, data);
    EXPECT_EQ(data[0], std::byte{0xff}) << address;
    bus.write(address, data);
  }
  EXPECT_EQ(device->lastWidth, 2U);
  bus.remove(0x100);
  bus.read(0x104, data);
  EXPECT_EQ(data[0], std::byte{0xff});
}

TEST(Bus, RefusesOverlaps) {
  Bus bus;
  const auto device = std::make_shared<Recorder>();
  ASSERT_TRUE(bus.add(0x100, 8, device));
  EXPECT_FALSE(bus.add(0x100, 1, device));
  EXPECT_FALSE(bus.add(0xf9, 8, device));
  EXPECT_FALSE(bus.add(0x107, 8, device));
  EXPECT_FALSE(bus.add(0x200, 0, device));
  EXPECT_FALSE(bus.add(~0UL, 2, device));
  EXPECT_TRUE(bus.add(0x108, 8, device));
  EXPECT_TRUE(bus.add(0xf8, 8, device));
  EXPECT_TRUE(bus.add(~0UL, 1, device));
}

}  // namespace
}  // namespace tshyve
