#include "virtio/pci_transport.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>

#include <atomic>
#include <thread>

#include "virtio/testing/pci_guest.h"

namespace tshyve::virtio {
namespace {

using test::GuestQueue;
using test::PciGuest;

constexpr std::uint64_t kDeviceFeature = 1ULL << 3;
constexpr std::uint64_t kAllFeatures = kDeviceFeature | kFeatureEventIndex | kFeatureVersion1;
constexpr std::uint64_t kMemoryBytes = 8 << 20;
constexpr int kReady = kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk;

/// Gives every chain back with its first byte plus one; two queues, 16 bytes of configuration.
class EchoDevice final : public Device {
 public:
  explicit EchoDevice(EventLoop& loop) : loop_(loop) {}
  [[nodiscard]] DeviceType type() const override { return DeviceType::kConsole; }
  [[nodiscard]] std::string_view name() const override { return "echo"; }
  [[nodiscard]] std::uint64_t features() const override { return kDeviceFeature | kFeatureEventIndex; }
  [[nodiscard]] std::span<const std::uint16_t> queueSizes() const override { return sizes_; }
  [[nodiscard]] EventLoop& loop() override { return loop_; }
  void readConfig(std::uint32_t offset, std::span<std::byte> data) override {
    for (std::size_t index = 0; index < data.size(); index++) {
      data[index] = offset + index < config.size() ? config[offset + index] : std::byte{0};
    }
  }
  void writeConfig(std::uint32_t offset, std::span<const std::byte> data) override {
    for (std::size_t index = 0; index < data.size() && offset + index < config.size(); index++) {
      config[offset + index] = data[index];
    }
  }
  Result<void> activate(Activation activation) override {
    if (refuses) return Error{ErrorCode::kHost, "no backend"};
    active = true;
    features_ = activation.features;
    queues_ = std::move(activation.queues);
    signals = &activation.signals;
    if (external) kickFd = signals->queueKickFd(1);
    return {};
  }
  void notify(std::uint16_t index) override {
    notified++;
    if (!active || paused) return;
    Chain chain;
    for (;;) {
      const auto popped = queues_[index]->pop(chain);
      if (!popped) return signals->deviceBroken(popped.error().message);
      if (!*popped) break;
      const auto byte = chain.read<std::uint8_t>(0).value_or(0);
      queues_[index]->push(chain.head, chain.write(0, static_cast<std::uint8_t>(byte + 1)) ? 1 : 0);
    }
    if (queues_[index]->shouldInterrupt()) signals->queueInterrupt(index);
  }
  void reset() override {
    active = false;
    queues_.clear();
  }
  void pause() override { paused = true; }
  void resume() override { paused = false; }
  void save(StateWriter& writer) const override { writer.put(state); }
  Result<void> restore(StateReader& reader) override { return reader.get(state); }

  std::array<std::byte, 16> config{};
  bool refuses = false;
  bool external = false;
  bool active = false;
  bool paused = false;
  int notified = 0;
  int kickFd = -1;
  std::uint32_t state = 0;
  std::uint64_t features_ = 0;
  DriverSignals* signals = nullptr;

 private:
  EventLoop& loop_;
  std::vector<Queue*> queues_;
  const std::array<std::uint16_t, 2> sizes_{64, 256};
};

class PciTransportTest : public ::testing::Test {
 protected:
  void echo(std::uint16_t queue, std::uint8_t value) {
    const std::uint64_t out = guest.allocator.put(value);
    const std::uint64_t in = guest.allocator.allocate(1);
    guest.queue(queue).offer({{out, 1, false}, {in, 1, true}});
    guest.kick(queue);
    loop->runOnce(std::chrono::milliseconds(0));
    ASSERT_TRUE(guest.queue(queue).takeUsed());
    EXPECT_EQ(guest.memory->read<std::uint8_t>(in), value + 1);
  }

  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create("echo").value());
  std::shared_ptr<EchoDevice> device = std::make_shared<EchoDevice>(*loop);
  std::vector<std::string> lines;
  PciGuest guest{device, kMemoryBytes, [this](std::string line) { lines.push_back(std::move(line)); }};
};

TEST_F(PciTransportTest, LooksLikeAModernVirtioFunction) {
  EXPECT_EQ(guest.config<std::uint32_t>(0), 0x10431af4U);
  EXPECT_EQ(guest.config<std::uint8_t>(8), 1);
  EXPECT_EQ(guest.config<std::uint16_t>(pci::kStatus), 0x10);
  EXPECT_EQ(guest.config<std::uint16_t>(pci::kSubsystemId), 0x1043);
  struct {
    std::uint8_t type;
    std::uint32_t offset;
    std::uint32_t size;
  } const expected[] = {
      {1, pci_bar::kCommon, 56}, {2, pci_bar::kNotify, 0x1000}, {3, pci_bar::kIsr, 1}, {4, pci_bar::kDevice, 0x1000}};
  for (const auto& [type, offset, size] : expected) {
    const std::uint8_t capability = guest.capability(pci::kCapabilityVendor, type);
    ASSERT_NE(capability, 0) << int{type};
    EXPECT_EQ(guest.config<std::uint8_t>(capability + 4U), 0);
    EXPECT_EQ(guest.config<std::uint32_t>(capability + 8U), offset);
    EXPECT_EQ(guest.config<std::uint32_t>(capability + 12U), size);
  }
  EXPECT_EQ(guest.config<std::uint32_t>(guest.capability(pci::kCapabilityVendor, 2) + 16U), 4U);
  EXPECT_NE(guest.capability(pci::kCapabilityVendor, 5), 0);
  const std::uint8_t msix = guest.capability(pci::kCapabilityMsix);
  EXPECT_EQ(guest.config<std::uint16_t>(msix + 2U), 2);
  EXPECT_EQ(guest.config<std::uint32_t>(msix + 4U), pci_bar::kMsixTable);
  EXPECT_EQ(guest.config<std::uint32_t>(msix + 8U), pci_bar::kMsixPending);
  EXPECT_EQ(guest.bar<std::uint16_t>(0x12), 2);
}

TEST_F(PciTransportTest, CarriesRequestsAndInterrupts) {
  guest.start(kAllFeatures);
  EXPECT_EQ(guest.status(), kReady);
  EXPECT_TRUE(device->active);
  EXPECT_EQ(device->features_, kAllFeatures);
  EXPECT_EQ(guest.services.ioEventCount(), 2U);
  echo(0, 41);
  echo(1, 17);
  echo(1, 18);
  EXPECT_EQ(guest.vector(0).delivered(), 0U);
  EXPECT_EQ(guest.vector(1).delivered(), 1U);
  EXPECT_EQ(guest.vector(2).delivered(), 2U);
  EXPECT_EQ(guest.vector(2).message(), (std::pair<std::uint64_t, std::uint32_t>(0xfee00000, 0x4002)));
}

TEST_F(PciTransportTest, NotifiesForWhatWasOfferedBeforeTheDriverWasReady) {
  guest.negotiate(kAllFeatures);
  guest.queues.push_back(std::make_unique<GuestQueue>(*guest.memory, guest.allocator, std::uint16_t{8}));
  guest.setUpQueue(0, guest.queue(0).layout(), kNoVector);
  guest.queue(0).offer({{guest.allocator.allocate(1), 1, true}});
  guest.kick(0);
  guest.setStatus(kReady);
  loop->runOnce(std::chrono::milliseconds(0));
  EXPECT_TRUE(guest.queue(0).takeUsed());
}

TEST_F(PciTransportTest, TakesOnlyLegalStatusSteps) {
  guest.setStatus(kStatusDriver);
  EXPECT_EQ(guest.status(), 0);
  guest.setStatus(kStatusDriverOk);
  EXPECT_EQ(guest.status(), 0);
  guest.setStatus(kStatusAcknowledge);
  guest.setStatus(kStatusAcknowledge | kStatusDriver | kStatusDriverOk);
  EXPECT_EQ(guest.status(), kStatusAcknowledge | kStatusDriver);
  // Bits are not taken back one by one.
  guest.setStatus(kStatusAcknowledge);
  EXPECT_EQ(guest.status(), kStatusAcknowledge | kStatusDriver);
  // VERSION_1 is compulsory.
  guest.setStatus(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
  EXPECT_EQ(guest.status(), kStatusAcknowledge | kStatusDriver);
  EXPECT_FALSE(device->active);
  guest.setStatus(guest.status() | kStatusFailed);
  EXPECT_NE(guest.status() & kStatusFailed, 0);
  guest.setStatus(0);
  EXPECT_EQ(guest.status(), 0);
  // DEVICE_NEEDS_RESET is not the driver's to set.
  guest.setStatus(kStatusAcknowledge | kStatusNeedsReset);
  EXPECT_EQ(guest.status(), kStatusAcknowledge);
}

TEST_F(PciTransportTest, OffersFeaturesByHalvesAndRefusesOthers) {
  guest.setBar(0, 0U);
  EXPECT_EQ(guest.bar<std::uint32_t>(4), static_cast<std::uint32_t>(kDeviceFeature | kFeatureEventIndex));
  guest.setBar(0, 1U);
  EXPECT_EQ(guest.bar<std::uint32_t>(4), 1U);
  guest.setBar(0, 2U);
  EXPECT_EQ(guest.bar<std::uint32_t>(4), 0U);
  guest.negotiate(kAllFeatures | 1ULL << 5);
  EXPECT_EQ(guest.status() & kStatusFeaturesOk, 0);
}

TEST_F(PciTransportTest, FeaturesAreWritableOnlyWhileTheyAreNegotiated) {
  guest.setBar(8, 0U);
  guest.setBar(0xc, 0xffffffffU);
  EXPECT_EQ(guest.bar<std::uint32_t>(0xc), 0U);
  guest.negotiate(kFeatureVersion1);
  EXPECT_NE(guest.status() & kStatusFeaturesOk, 0);
  guest.setBar(8, 0U);
  guest.setBar(0xc, 0xffffffffU);
  EXPECT_EQ(guest.bar<std::uint32_t>(0xc), 0U);
}

TEST_F(PciTransportTest, QueueFieldsAreFrozenOnceEnabled) {
  // Before FEATURES_OK nothing is taken.
  guest.setBar(0x18, std::uint16_t{8});
  EXPECT_EQ(guest.bar<std::uint16_t>(0x18), 64);
  guest.negotiate(kAllFeatures);
  for (const int size : {0, 3, 128, 65535}) {
    guest.setBar(0x18, static_cast<std::uint16_t>(size));
    EXPECT_EQ(guest.bar<std::uint16_t>(0x18), 64);
  }
  guest.setBar(0x18, std::uint16_t{8});
  EXPECT_EQ(guest.bar<std::uint16_t>(0x18), 8);
  guest.setBar<std::uint64_t>(0x20, 0x1122334455667780);
  EXPECT_EQ(guest.bar<std::uint32_t>(0x20), 0x55667780U);
  EXPECT_EQ(guest.bar<std::uint32_t>(0x24), 0x11223344U);
  guest.setBar(0x24, 0U);
  EXPECT_EQ(guest.bar<std::uint64_t>(0x20), 0x55667780U);
  guest.setBar(0x1c, std::uint16_t{1});
  guest.setBar(0x18, std::uint16_t{16});
  guest.setBar(0x20, 0U);
  guest.setBar(0x1c, std::uint16_t{0});
  EXPECT_EQ(guest.bar<std::uint16_t>(0x18), 8);
  EXPECT_EQ(guest.bar<std::uint64_t>(0x20), 0x55667780U);
  EXPECT_EQ(guest.bar<std::uint16_t>(0x1c), 1);
}

TEST_F(PciTransportTest, QueuesThatDoNotExistHaveSizeZero) {
  guest.negotiate(kAllFeatures);
  for (const int index : {2, 63, 64, 0xffff}) {
    guest.setUpQueue(static_cast<std::uint16_t>(index), {8, 0x1000, 0x2000, 0x3000}, 0);
    EXPECT_EQ(guest.bar<std::uint16_t>(0x18), 0);
    EXPECT_EQ(guest.bar<std::uint16_t>(0x1a), kNoVector);
    EXPECT_EQ(guest.bar<std::uint16_t>(0x1c), 0);
    EXPECT_EQ(guest.bar<std::uint64_t>(0x20), 0U);
  }
}

TEST_F(PciTransportTest, VectorsThatDoNotExistReadBackAsNone) {
  guest.negotiate(kAllFeatures);
  for (const std::uint64_t offset : {0x10U, 0x1aU}) {
    guest.setBar(offset, std::uint16_t{2});
    EXPECT_EQ(guest.bar<std::uint16_t>(offset), 2);
    guest.setBar(offset, std::uint16_t{3});
    EXPECT_EQ(guest.bar<std::uint16_t>(offset), kNoVector);
  }
}

TEST_F(PciTransportTest, AQueueThatIsNotEnabledIsAbsent) {
  guest.negotiate(kAllFeatures);
  guest.queues.push_back(std::make_unique<GuestQueue>(*guest.memory, guest.allocator, std::uint16_t{8}));
  guest.setUpQueue(0, guest.queue(0).layout(), kNoVector);
  guest.setStatus(kReady);
  EXPECT_EQ(guest.services.ioEventCount(), 1U);
  guest.kick(1);
  loop->runOnce(std::chrono::milliseconds(0));
  EXPECT_EQ(device->notified, 1);
}

TEST_F(PciTransportTest, BadRingsNeedAReset) {
  guest.negotiate(kAllFeatures);
  guest.enableMsix();
  guest.setBar(0x10, std::uint16_t{0});
  guest.setUpQueue(0, {8, 0xffffffff000, 0x2000, 0x3000}, 0);
  guest.setStatus(kReady);
  EXPECT_EQ(guest.status(), kReady | kStatusNeedsReset);
  EXPECT_FALSE(device->active);
  EXPECT_EQ(guest.vector(0).delivered(), 1U);
  ASSERT_FALSE(lines.empty());
  guest.start(kAllFeatures);
  EXPECT_EQ(guest.status(), kReady);
  echo(0, 1);
}

TEST_F(PciTransportTest, ADeviceThatCannotStartNeedsAReset) {
  device->refuses = true;
  guest.start(kAllFeatures);
  EXPECT_EQ(guest.status(), kReady | kStatusNeedsReset);
  EXPECT_NE(lines.at(0).find("no backend"), std::string::npos);
  guest.kick(0);
  loop->runOnce(std::chrono::milliseconds(0));
  device->refuses = false;
  guest.start(kAllFeatures);
  echo(0, 1);
}

TEST_F(PciTransportTest, ABrokenDriverGetsNoFurtherService) {
  guest.start(kAllFeatures);
  guest.queue(0).offerHead(0x7777);
  guest.kick(0);
  loop->runOnce(std::chrono::milliseconds(0));
  EXPECT_NE(guest.status() & kStatusNeedsReset, 0);
  EXPECT_EQ(guest.vector(0).delivered(), 1U);
  const int notified = device->notified;
  guest.kick(1);
  loop->runOnce(std::chrono::milliseconds(0));
  EXPECT_EQ(device->notified, notified);
  guest.start(kAllFeatures);
  EXPECT_EQ(guest.status(), kReady);
  echo(1, 3);
}

TEST_F(PciTransportTest, ResetQuiescesAndForgets) {
  guest.start(kAllFeatures);
  guest.kick(0);
  guest.setStatus(0);
  EXPECT_FALSE(device->active);
  EXPECT_EQ(guest.services.ioEventCount(), 0U);
  EXPECT_EQ(guest.status(), 0);
  const int notified = device->notified;
  guest.kick(0);
  loop->runOnce(std::chrono::milliseconds(0));
  EXPECT_EQ(device->notified, notified);
  EXPECT_EQ(guest.bar<std::uint16_t>(0x10), kNoVector);
  EXPECT_EQ(guest.bar<std::uint16_t>(0x18), 64);
  EXPECT_EQ(guest.bar<std::uint16_t>(0x1c), 0);
  EXPECT_EQ(guest.bar<std::uint64_t>(0x20), 0U);
  EXPECT_EQ(guest.bar<std::uint32_t>(0xc), 0U);
}

TEST_F(PciTransportTest, ShowsTheDevicesConfiguration) {
  device->config[3] = std::byte{0x5a};
  EXPECT_EQ(guest.bar<std::uint32_t>(pci_bar::kDevice), 0x5a000000U);
  EXPECT_EQ(guest.bar<std::uint64_t>(pci_bar::kDevice + 12), 0U);
  // Written only by a driver.
  guest.setBar(pci_bar::kDevice, std::uint8_t{9});
  EXPECT_EQ(device->config[0], std::byte{0});
  guest.start(kAllFeatures);
  guest.setBar(pci_bar::kDevice, std::uint8_t{9});
  EXPECT_EQ(device->config[0], std::byte{9});
  const auto generation = guest.bar<std::uint8_t>(0x15);
  device->signals->configChanged();
  EXPECT_EQ(guest.bar<std::uint8_t>(0x15), generation + 1);
  EXPECT_EQ(guest.vector(0).delivered(), 1U);
}

TEST_F(PciTransportTest, WithoutMsixTheIsrTells) {
  guest.negotiate(kAllFeatures);
  guest.queues.push_back(std::make_unique<GuestQueue>(*guest.memory, guest.allocator, std::uint16_t{8}));
  guest.setUpQueue(0, guest.queue(0).layout(), kNoVector);
  guest.setStatus(kReady);
  echo(0, 1);
  device->signals->configChanged();
  EXPECT_EQ(guest.bar<std::uint8_t>(pci_bar::kIsr), 3);
  EXPECT_EQ(guest.bar<std::uint8_t>(pci_bar::kIsr), 0);
}

TEST_F(PciTransportTest, MaskedVectorsRemember) {
  guest.start(kAllFeatures);
  const std::uint64_t entry = pci_bar::kMsixTable + 16;
  guest.setBar(entry + 12, 1U);
  echo(0, 1);
  EXPECT_EQ(guest.vector(1).delivered(), 0U);
  EXPECT_EQ(guest.bar<std::uint64_t>(pci_bar::kMsixPending), 2U);
  guest.setBar(entry + 12, 0U);
  EXPECT_EQ(guest.vector(1).delivered(), 1U);
  EXPECT_EQ(guest.bar<std::uint64_t>(pci_bar::kMsixPending), 0U);
  // The function's mask.
  const std::uint32_t control = guest.capability(pci::kCapabilityMsix) + 2U;
  guest.setConfig(control, static_cast<std::uint16_t>(pci::MsixTable::kControlEnable | pci::MsixTable::kControlMask));
  echo(0, 2);
  EXPECT_EQ(guest.vector(1).delivered(), 1U);
  guest.setConfig(control, pci::MsixTable::kControlEnable);
  EXPECT_EQ(guest.vector(1).delivered(), 2U);
  EXPECT_EQ(guest.config<std::uint16_t>(control), pci::MsixTable::kControlEnable | 2);
}

TEST_F(PciTransportTest, TheMsixTableTakesOnlyAlignedWords) {
  const std::uint64_t table = pci_bar::kMsixTable;
  EXPECT_EQ(guest.bar<std::uint32_t>(table + 12), 1U);
  guest.setBar<std::uint64_t>(table, 0x00000001fee01000);
  EXPECT_EQ(guest.bar<std::uint64_t>(table), 0x00000001fee01000U);
  guest.setBar<std::uint16_t>(table, 7);
  guest.setBar<std::uint8_t>(table + 1, 7);
  guest.setBar<std::uint64_t>(table + 4, 7);
  guest.setBar<std::uint32_t>(table + 2, 7);
  EXPECT_EQ(guest.bar<std::uint64_t>(table), 0x00000001fee01000U);
  guest.setBar(table + 12, 0xfffffffeU);
  EXPECT_EQ(guest.bar<std::uint32_t>(table + 12), 0U);
  // Beyond the last of three entries.
  guest.setBar<std::uint32_t>(table + 48, 7);
  EXPECT_EQ(guest.bar<std::uint32_t>(table + 48), 0U);
}

TEST_F(PciTransportTest, FollowsItsBar) {
  guest.start(kAllFeatures);
  const auto old = static_cast<std::uint32_t>(guest.barAddress);
  const auto moved = old + 0x1000000;
  // As Linux does it: off, probe the size, on again elsewhere.
  guest.setConfig<std::uint16_t>(pci::kCommand, 0);
  EXPECT_EQ(guest.bar<std::uint32_t>(0x14), 0xffffffffU);
  EXPECT_EQ(guest.services.ioEventCount(), 0U);
  guest.setConfig(pci::kBar0, 0xffffffffU);
  EXPECT_EQ(guest.config<std::uint32_t>(pci::kBar0), ~(pci_bar::kSize - 1));
  guest.setConfig(pci::kBar0, moved);
  guest.setConfig<std::uint16_t>(pci::kCommand, pci::kCommandMemorySpace);
  guest.barAddress = moved;
  EXPECT_EQ(guest.services.ioEventCount(), 2U);
  echo(0, 5);
  // Where it cannot be, it is nowhere.
  guest.setConfig(pci::kBar0, 0x10000U);
  EXPECT_EQ(guest.services.ioEventCount(), 0U);
  guest.setConfig(pci::kBar0, 0xfee00000U);
  EXPECT_EQ(guest.services.ioEventCount(), 0U);
  guest.setConfig(pci::kBar0, moved);
  echo(0, 6);
}

TEST_F(PciTransportTest, IsReachableThroughConfigurationSpaceAlone) {
  const std::uint32_t access = guest.capability(pci::kCapabilityVendor, 5);
  const auto point = [&](std::uint32_t offset, std::uint32_t length, std::uint8_t bar = 0) {
    guest.setConfig(access + 4, bar);
    guest.setConfig(access + 8, offset);
    guest.setConfig(access + 12, length);
  };
  point(0x12, 2);
  EXPECT_EQ(guest.config<std::uint16_t>(access + 16), 2);
  point(0x14, 1);
  guest.setConfig<std::uint8_t>(access + 16, kStatusAcknowledge);
  EXPECT_EQ(guest.status(), kStatusAcknowledge);
  EXPECT_EQ(guest.config<std::uint8_t>(access + 16), kStatusAcknowledge);
  // Nonsense changes nothing.
  for (const auto& [offset, length, bar] : {std::tuple<std::uint32_t, std::uint32_t, std::uint8_t>{0x14, 1, 1},
                                            {0x14, 0, 0},
                                            {0x14, 3, 0},
                                            {0x14, 8, 0},
                                            {0x15, 2, 0},
                                            {pci_bar::kSize, 1, 0},
                                            {0xfffffffc, 4, 0}}) {
    point(offset, length, bar);
    guest.setConfig<std::uint32_t>(access + 16, 0);
    static_cast<void>(guest.config<std::uint32_t>(access + 16));
    EXPECT_EQ(guest.status(), kStatusAcknowledge);
  }
}

TEST_F(PciTransportTest, SurvivesAccessesOfAnyWidthAnywhere) {
  for (const bool started : {false, true}) {
    for (std::uint64_t offset = 0; offset < pci_bar::kSize; offset += offset < 0x60 ? 1 : 509) {
      if (started) guest.start(kAllFeatures);
      for (const std::size_t width : {1U, 2U, 4U, 8U}) {
        if (offset + width > pci_bar::kSize) continue;
        std::array<std::byte, 8> bytes;
        guest.memoryBus.read(guest.barAddress + offset, std::span(bytes).first(width));
        bytes.fill(std::byte{0xff});
        guest.memoryBus.write(guest.barAddress + offset, std::span(bytes).first(width));
      }
    }
    for (std::uint32_t offset = 0; offset < 0x1000; offset++) {
      if (offset / 4 != pci::kBar0 / 4 && offset / 4 != pci::kCommand / 4) guest.setConfig<std::uint8_t>(offset, 0xff);
      static_cast<void>(guest.config<std::uint64_t>(offset));
    }
  }
}

TEST_F(PciTransportTest, ADataPathOutsideGetsTheEventsItself) {
  device->external = true;
  guest.start(kAllFeatures);
  loop->runOnce(std::chrono::milliseconds(0));
  const int notified = device->notified;
  guest.kick(1);
  loop->runOnce(std::chrono::milliseconds(0));
  EXPECT_EQ(device->notified, notified);
  std::uint64_t count = 0;
  EXPECT_EQ(::read(device->kickFd, &count, sizeof count), 8);
  EXPECT_EQ(device->signals->queueInterruptFd(1), guest.vector(2).irqFd());
  guest.setBar(0x16, std::uint16_t{1});
  guest.setBar(0x1a, kNoVector);
  EXPECT_EQ(device->signals->queueInterruptFd(1), -1);
}

TEST_F(PciTransportTest, PauseHoldsKicksBack) {
  guest.start(kAllFeatures);
  loop->runOnce(std::chrono::milliseconds(0));
  guest.root->pause();
  EXPECT_TRUE(device->paused);
  guest.queue(0).offer({{guest.allocator.allocate(1), 1, true}});
  guest.kick(0);
  loop->runOnce(std::chrono::milliseconds(0));
  EXPECT_FALSE(guest.queue(0).takeUsed());
  guest.root->resume();
  loop->runOnce(std::chrono::milliseconds(0));
  EXPECT_TRUE(guest.queue(0).takeUsed());
}

class PciSnapshotTest : public PciTransportTest {
 protected:
  /// Another machine with the same guest memory.
  void copyMemory(PciGuest& other) const {
    const auto from = guest.memory->slice(0, guest.memory->totalBytes());
    const auto to = other.memory->slice(0, other.memory->totalBytes());
    std::copy(from->begin(), from->end(), to->begin());
  }
};

TEST_F(PciSnapshotTest, GoesOnInAnotherProcess) {
  guest.start(kAllFeatures);
  echo(0, 1);
  echo(0, 2);
  device->state = 77;
  guest.setConfig(pci::kBar0, static_cast<std::uint32_t>(guest.barAddress + 0x2000000));
  // Masked and pending, and one request that nobody has looked at yet.
  guest.barAddress += 0x2000000;
  guest.setBar(pci_bar::kMsixTable + 2 * 16 + 12, 1U);
  echo(1, 3);
  guest.root->pause();
  const std::uint64_t out = guest.allocator.put(std::uint8_t{9});
  guest.queue(0).offer({{out, 1, false}, {out + 16, 1, true}});
  StateWriter writer;
  guest.root->save(writer);

  auto otherLoop = EventLoop::create("other");
  auto otherDevice = std::make_shared<EchoDevice>(**otherLoop);
  PciGuest other(otherDevice, kMemoryBytes);
  copyMemory(other);
  StateReader reader(writer.data());
  const auto restored = other.root->restore(reader);
  ASSERT_TRUE(restored) << restored.error().message;
  EXPECT_EQ(reader.remaining(), 0U);
  EXPECT_EQ(otherDevice->state, 77U);
  EXPECT_TRUE(otherDevice->active);
  EXPECT_TRUE(otherDevice->paused);
  other.barAddress = guest.barAddress;
  EXPECT_EQ(other.status(), kReady);
  (*otherLoop)->runOnce(std::chrono::milliseconds(0));
  EXPECT_EQ(otherDevice->notified, 0);
  other.root->resume();
  (*otherLoop)->runOnce(std::chrono::milliseconds(0));
  EXPECT_EQ(other.memory->read<std::uint8_t>(out + 16), 10);
  EXPECT_GE(other.vector(1).delivered(), 1U);
  EXPECT_EQ(other.vector(2).delivered(), 0U);
  EXPECT_TRUE(other.vector(2).pending());
  EXPECT_EQ(other.vector(2).message().second, 0x4002U);
}

TEST_F(PciSnapshotTest, RefusesDamagedState) {
  guest.start(kAllFeatures);
  echo(0, 1);
  guest.root->pause();
  StateWriter writer;
  guest.root->save(writer);
  const std::vector<std::byte> good(writer.data().begin(), writer.data().end());
  for (std::size_t length = 0; length < good.size(); length += 3) {
    StateReader reader{std::span(good).first(length)};
    EXPECT_FALSE(guest.root->restore(reader)) << length;
  }
  // Any byte may be wrong: an error or another state, never worse.
  for (std::size_t index = 0; index < good.size(); index++) {
    std::vector<std::byte> bad = good;
    bad[index] ^= std::byte{0xff};
    StateReader reader(bad);
    static_cast<void>(guest.root->restore(reader).ok());
  }
  StateReader reader(good);
  EXPECT_TRUE(guest.root->restore(reader));
  guest.root->resume();
  loop->runOnce(std::chrono::milliseconds(0));
  echo(0, 2);
}

TEST_F(PciSnapshotTest, RefusesFeaturesThisHostDoesNotHave) {
  guest.start(kAllFeatures);
  guest.root->pause();
  StateWriter writer;
  guest.root->save(writer);
  class Lesser final : public Device {
   public:
    explicit Lesser(EventLoop& loop) : inner_(loop) {}
    [[nodiscard]] DeviceType type() const override { return inner_.type(); }
    [[nodiscard]] std::string_view name() const override { return inner_.name(); }
    [[nodiscard]] std::uint64_t features() const override { return kFeatureEventIndex; }
    [[nodiscard]] std::span<const std::uint16_t> queueSizes() const override { return inner_.queueSizes(); }
    [[nodiscard]] EventLoop& loop() override { return inner_.loop(); }
    void readConfig(std::uint32_t offset, std::span<std::byte> data) override { inner_.readConfig(offset, data); }
    void writeConfig(std::uint32_t, std::span<const std::byte>) override {}
    Result<void> activate(Activation activation) override { return inner_.activate(std::move(activation)); }
    void notify(std::uint16_t queue) override { inner_.notify(queue); }
    void reset() override { inner_.reset(); }
    void pause() override {}
    void resume() override {}
    void save(StateWriter& state) const override { inner_.save(state); }
    Result<void> restore(StateReader& state) override { return inner_.restore(state); }

   private:
    EchoDevice inner_;
  };
  PciGuest other(std::make_shared<Lesser>(*loop), kMemoryBytes);
  StateReader reader(writer.data());
  const auto restored = other.root->restore(reader);
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code, ErrorCode::kUnsupported);
}

// Several vCPUs at the registers while the device works on its own thread: nobody may wait for ever (and TSan watches).
TEST(PciTransportThreads, RegistersKicksAndResetsAtTheSameTime) {
  auto loop = EventLoop::create("echo");
  ASSERT_TRUE(loop);
  (*loop)->start();
  auto device = std::make_shared<EchoDevice>(**loop);
  PciGuest guest(device, 16 << 20);
  guest.start(kAllFeatures);
  std::atomic<bool> done{false};
  std::vector<std::thread> vcpus;
  vcpus.emplace_back([&] {
    while (!done) guest.kick(0);
  });
  vcpus.emplace_back([&] {
    while (!done) {
      static_cast<void>(guest.bar<std::uint32_t>(pci_bar::kDevice));
      static_cast<void>(guest.status());
      guest.setBar(pci_bar::kMsixTable + 16 + 12, 1U);
      guest.setBar(pci_bar::kMsixTable + 16 + 12, 0U);
    }
  });
  const std::uint64_t buffer = guest.allocator.allocate(1);
  for (int round = 0; round < 50; round++) {
    for (int count = 0; count < 20; count++) {
      guest.queue(0).offer({{buffer, 1, true}});
      guest.kick(0);
    }
    // Before the queue's 64 descriptors come round again: the device may not have served them yet.
    if (round % 3 == 0) guest.start(kAllFeatures);
  }
  done = true;
  for (std::thread& vcpu : vcpus) vcpu.join();
  EXPECT_EQ(guest.status(), kReady);
  guest.root.reset();
  (*loop)->stop();
}

}  // namespace
}  // namespace tshyve::virtio
