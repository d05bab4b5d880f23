#include "pci/root.h"

#include <gtest/gtest.h>

#include "boot/layout.h"
#include "pci/config_space.h"

namespace tshyve::pci {
namespace {

template <typename T>
T busRead(const Bus& bus, std::uint64_t address) {
  T value{};
  bus.read(address, std::as_writable_bytes(std::span(&value, 1)));
  return value;
}
template <typename T>
void busWrite(const Bus& bus, std::uint64_t address, T value) {
  bus.write(address, std::as_bytes(std::span(&value, 1)));
}

/// A function with a BAR of 4 KiB that reads as its slot's number everywhere.
class PlainDevice final : public PciDevice, public std::enable_shared_from_this<PlainDevice> {
 public:
  PlainDevice() { config.addMemoryBar(0x1000); }
  [[nodiscard]] std::string_view name() const override { return "plain"; }
  void readConfig(std::uint16_t offset, std::span<std::byte> out) override { config.read(offset, out); }
  void writeConfig(std::uint16_t offset, std::span<const std::byte> data) override { config.write(offset, data); }
  Result<void> attach(BarWindow& barWindow) override {
    window = &barWindow;
    TSHYVE_TRY(const std::uint32_t address, window->allocate(0x1000));
    config.setBarAddress(address);
    return {};
  }
  void detach() override { window = nullptr; }
  void pause() override { pauses++; }
  void resume() override { pauses--; }
  void save(StateWriter& writer) override { config.save(writer); }
  Result<void> restore(StateReader& reader) override { return config.restore(reader); }

  ConfigSpace config{{.vendor = 0x1234, .device = 0x5678, .classCode = 0x010203}};
  BarWindow* window = nullptr;
  int pauses = 0;
};

class PciRootTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = PciRoot::create(ports, memory);
    ASSERT_TRUE(made);
    root = std::move(*made);
  }
  std::uint64_t ecam(std::uint32_t slot, std::uint32_t offset) {
    return layout::kPciEcam.start + (slot << 15) + offset;
  }
  void select(std::uint32_t slot, std::uint32_t offset) {
    busWrite<std::uint32_t>(ports, 0xcf8, 0x80000000 | slot << 11 | (offset & 0xfc));
  }

  Bus ports;
  Bus memory;
  std::unique_ptr<PciRoot> root;
};

TEST_F(PciRootTest, AHostBridgeSitsAtSlotZeroAndNothingElseAnywhere) {
  EXPECT_EQ(busRead<std::uint32_t>(memory, ecam(0, 0)), 0x00081b36U);
  EXPECT_EQ(busRead<std::uint32_t>(memory, ecam(0, 8)), 0x06000000U);
  for (const std::uint32_t slot : {1U, 5U, 31U}) EXPECT_EQ(busRead<std::uint32_t>(memory, ecam(slot, 0)), 0xffffffffU);
  // Function 1 of slot 0, and bus 1.
  EXPECT_EQ(busRead<std::uint32_t>(memory, ecam(0, 0x1000)), 0xffffffffU);
  EXPECT_EQ(busRead<std::uint32_t>(memory, ecam(32, 0)), 0xffffffffU);
}

TEST_F(PciRootTest, BothWaysShowTheSameRegistersInEveryWidth) {
  auto device = std::make_shared<PlainDevice>();
  auto slot = root->addDevice(device);
  ASSERT_TRUE(slot);
  EXPECT_EQ(*slot, 1);
  const std::array<std::uint8_t, 12> expected{0x34, 0x12, 0x78, 0x56, 0, 0, 0, 0, 0, 3, 2, 1};
  for (std::uint32_t offset = 0; offset < expected.size(); offset++) {
    select(1, offset);
    EXPECT_EQ(busRead<std::uint8_t>(ports, 0xcfc + offset % 4), expected[offset]);
    EXPECT_EQ(busRead<std::uint8_t>(memory, ecam(1, offset)), expected[offset]);
    if (offset % 2 == 0) {
      const std::uint16_t word = static_cast<std::uint16_t>(expected[offset] | expected[offset + 1] << 8);
      EXPECT_EQ(busRead<std::uint16_t>(ports, 0xcfc + offset % 4), word);
      EXPECT_EQ(busRead<std::uint16_t>(memory, ecam(1, offset)), word);
    }
  }
  EXPECT_EQ(busRead<std::uint64_t>(memory, ecam(1, 0)), 0x56781234U);
  // Beyond the conventional part, and across the function's end.
  EXPECT_EQ(busRead<std::uint32_t>(memory, ecam(1, 0x100)), 0U);
  EXPECT_EQ(busRead<std::uint32_t>(memory, ecam(1, 0xffe)), 0xffffffffU);
}

TEST_F(PciRootTest, ConfigAddressTakesOnlyWholeWrites) {
  select(0, 8);
  EXPECT_EQ(busRead<std::uint32_t>(ports, 0xcf8), 0x80000008U);
  busWrite<std::uint8_t>(ports, 0xcf8, 0);
  busWrite<std::uint16_t>(ports, 0xcfa, 0);
  EXPECT_EQ(busRead<std::uint32_t>(ports, 0xcf8), 0x80000008U);
  EXPECT_EQ(busRead<std::uint16_t>(ports, 0xcf8), 0xffffU);
  // Not enabled, another bus, across the data port's end.
  busWrite<std::uint32_t>(ports, 0xcf8, 0x00000000);
  EXPECT_EQ(busRead<std::uint32_t>(ports, 0xcfc), 0xffffffffU);
  busWrite<std::uint32_t>(ports, 0xcf8, 0x80010000);
  EXPECT_EQ(busRead<std::uint32_t>(ports, 0xcfc), 0xffffffffU);
  select(0, 0);
  EXPECT_EQ(busRead<std::uint32_t>(ports, 0xcfe), 0xffffffffU);
  EXPECT_EQ(busRead<std::uint32_t>(ports, 0xcfa), 0xffffffffU);
}

TEST_F(PciRootTest, TheGuestChangesOnlyWhatItMay) {
  auto device = std::make_shared<PlainDevice>();
  ASSERT_TRUE(root->addDevice(device));
  for (std::uint32_t offset = 0; offset < 0x1000; offset += 4) {
    if (offset != kBar0) busWrite<std::uint32_t>(memory, ecam(1, offset), 0xffffffff);
  }
  EXPECT_EQ(busRead<std::uint32_t>(memory, ecam(1, 0)), 0x56781234U);
  EXPECT_EQ(busRead<std::uint32_t>(memory, ecam(1, kCommand)), 0x0406U);
  const auto address = busRead<std::uint32_t>(memory, ecam(1, kBar0));
  EXPECT_GE(address, layout::kPciWindow32.start);
  busWrite<std::uint32_t>(memory, ecam(1, kBar0), 0xffffffff);
  EXPECT_EQ(busRead<std::uint32_t>(memory, ecam(1, kBar0)), 0xfffff000U);
  busWrite<std::uint8_t>(memory, ecam(1, kBar0 + 1), 0x50);
  EXPECT_EQ(busRead<std::uint32_t>(memory, ecam(1, kBar0)), 0xffff5000U);
  EXPECT_EQ(busRead<std::uint32_t>(memory, ecam(1, kBar0 + 4)), 0U);
}

TEST_F(PciRootTest, HasRoomFor31Devices) {
  for (int count = 1; count < PciRoot::kSlots; count++) ASSERT_TRUE(root->addDevice(std::make_shared<PlainDevice>()));
  const auto more = root->addDevice(std::make_shared<PlainDevice>());
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().code, ErrorCode::kInvalidArgument);
}

TEST_F(PciRootTest, MapsBarsOnlyWithinTheWindow) {
  auto device = std::make_shared<PlainDevice>();
  ASSERT_TRUE(root->addDevice(device));
  class Silent final : public BusDevice {
    void read(std::uint64_t, std::span<std::byte>) override {}
    void write(std::uint64_t, std::span<const std::byte>) override {}
  };
  const auto start = static_cast<std::uint32_t>(layout::kPciWindow32.start);
  const auto end = static_cast<std::uint32_t>(layout::kPciWindow32.end());
  const auto silent = std::make_shared<Silent>();
  EXPECT_FALSE(device->window->map(start - 0x1000, 0x1000, silent));
  EXPECT_FALSE(device->window->map(end, 0x1000, silent));
  EXPECT_FALSE(device->window->map(0xfffff000, 0x1000, silent));
  EXPECT_TRUE(device->window->map(end - 0x1000, 0x1000, silent));
  EXPECT_FALSE(device->window->map(end - 0x1000, 0x1000, silent));
  device->window->unmap(end - 0x1000);
  EXPECT_TRUE(device->window->map(end - 0x1000, 0x1000, silent));
}

TEST_F(PciRootTest, SavesAndRestoresItsDevices) {
  ASSERT_TRUE(root->addDevice(std::make_shared<PlainDevice>()));
  busWrite<std::uint16_t>(memory, ecam(1, kCommand), 0x6);
  select(1, 4);
  StateWriter writer;
  root->save(writer);
  root.reset();

  SetUp();
  auto device = std::make_shared<PlainDevice>();
  ASSERT_TRUE(root->addDevice(device));
  StateReader reader(writer.data());
  ASSERT_TRUE(root->restore(reader));
  EXPECT_EQ(reader.remaining(), 0U);
  EXPECT_EQ(busRead<std::uint32_t>(ports, 0xcf8), 0x80000804U);
  EXPECT_EQ(busRead<std::uint16_t>(ports, 0xcfc), 0x6);
  for (std::size_t length = 0; length < writer.data().size(); length += 7) {
    StateReader cut(writer.data().first(length));
    EXPECT_FALSE(root->restore(cut)) << length;
  }
}

}  // namespace
}  // namespace tshyve::pci
