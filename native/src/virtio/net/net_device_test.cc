#include "virtio/net/net_device.h"

#include <gtest/gtest.h>

#include <cstring>
#include <deque>

#include "net/datagram_backend.h"
#include "net/testing/frames.h"
#include "virtio/testing/guest_driver.h"

namespace tshyve::virtio {
namespace {

using net::Offloads;
using net::VirtioNetHeader;
using net::test::dhcpFrame;
using net::test::Frame;
using net::test::FrameWriter;
using net::test::kGuestMac;
using net::test::runUntil;
using test::Buffer;
using test::DeviceHarness;

constexpr std::uint16_t kReceive = 0;
constexpr std::uint16_t kSend = 1;
constexpr std::size_t kHeader = sizeof(VirtioNetHeader);
constexpr std::uint64_t kMergeable = 1ULL << 15;

Frame numbered(std::size_t size, unsigned number) { return Frame(size, static_cast<std::byte>(number)); }

/// A back end whose other end is the test: what tap, sockets and libslirp do beyond that, their own tests show.
class LocalBackend final : public net::FrameBackend {
 public:
  [[nodiscard]] const Properties& properties() const override { return properties_; }
  [[nodiscard]] bool linkUp() const override { return link; }
  Result<void> setReceiveOffloads(const Offloads& offloads) override {
    receiveOffloads = offloads;
    return {};
  }
  std::size_t send(std::span<const net::OutgoingFrame> frames) override {
    std::size_t taken = 0;
    for (const net::OutgoingFrame& frame : frames) {
      if (sent.size() == room) break;
      Frame bytes;
      for (const iovec& part : frame.data) {
        const auto* data = static_cast<const std::byte*>(part.iov_base);
        bytes.insert(bytes.end(), data, data + part.iov_len);
      }
      sent.push_back(bytes);
      headers.push_back(frame.header);
      taken++;
    }
    return taken;
  }
  std::optional<std::size_t> receive(VirtioNetHeader& header, std::span<const iovec> target) override {
    if (waiting.empty()) return std::nullopt;
    const Frame frame = waiting.front();
    waiting.pop_front();
    header = receiveHeader;
    std::size_t at = 0;
    for (const iovec& part : target) {
      const std::size_t count = std::min(part.iov_len, frame.size() - at);
      std::memcpy(part.iov_base, frame.data() + at, count);
      at += count;
    }
    EXPECT_EQ(at, frame.size()) << "the target was too short";
    return frame.size();
  }
  void setReceiving(bool value) override { receiving = value; }
  void arrive(const Frame& frame) {
    waiting.push_back(frame);
    if (receiving) listener()->framesReady();
  }
  void makeRoom(std::size_t frames) {
    room = sent.size() + frames;
    listener()->sendReady();
  }
  void setLink(bool up) {
    link = up;
    listener()->linkChanged();
  }

  Properties properties_;
  bool link = true;
  bool receiving = false;
  std::size_t room = SIZE_MAX;
  Offloads receiveOffloads;
  VirtioNetHeader receiveHeader;
  std::deque<Frame> waiting;
  std::vector<Frame> sent;
  std::vector<VirtioNetHeader> headers;
};

class NetDeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    loop = std::move(EventLoop::create("net")).value();
    make({.mtu = 1500, .offloads = {}, .checksumsValid = false, .mac = std::nullopt, .vhostFd = -1});
  }
  void TearDown() override {
    harness.reset();
    device.reset();
  }
  void make(const net::FrameBackend::Properties& properties) {
    harness.reset();
    auto owned = std::make_unique<LocalBackend>();
    owned->properties_ = properties;
    backend = owned.get();
    device = NetDevice::create(
        *loop, "net0", kGuestMac, std::move(owned),
        {.addressAssigned =
             [this](const net::DhcpSnoop::Lease& lease) { leases.push_back(net::toString(lease.address)); },
         .linkChanged = [this](bool up) { links.push_back(up); },
         .log = {}});
    harness = std::make_unique<DeviceHarness>(*device);
  }
  void activate(std::uint64_t without = 0) {
    ASSERT_TRUE(harness->activate((device->features() | kFeatureVersion1) & ~without));
    harness->notify(kReceive);
    harness->notify(kSend);
  }
  /// A receive buffer of one or more parts. @return its guest address
  std::uint64_t offerBuffer(std::uint32_t length) {
    const std::uint64_t address = harness->allocator.allocate(length);
    harness->queue(kReceive).offer({{address, length, true}});
    return address;
  }
  Frame readGuest(std::uint64_t address, std::size_t length) {
    Frame bytes(length);
    EXPECT_TRUE(harness->memory->readBytes(address, bytes));
    return bytes;
  }
  VirtioNetHeader readHeader(std::uint64_t address) { return *harness->memory->read<VirtioNetHeader>(address); }
  /// Offers a frame for sending, header and data in one buffer.
  void offerFrame(const Frame& frame, const VirtioNetHeader& header = {}) {
    Frame bytes(kHeader);
    std::memcpy(bytes.data(), &header, kHeader);
    bytes.insert(bytes.end(), frame.begin(), frame.end());
    const std::uint64_t address = harness->allocator.put(bytes);
    harness->queue(kSend).offer({{address, static_cast<std::uint32_t>(bytes.size()), false}});
  }
  std::size_t usedCount(std::uint16_t queue) {
    std::size_t count = 0;
    while (harness->queue(queue).takeUsed()) count++;
    return count;
  }
  std::unique_ptr<EventLoop> loop;
  LocalBackend* backend = nullptr;
  std::vector<std::string> leases;
  std::vector<bool> links;
  std::unique_ptr<NetDevice> device;
  std::unique_ptr<DeviceHarness> harness;
};

TEST_F(NetDeviceTest, ShowsItsConfiguration) {
  Frame config(20, std::byte{0xee});
  device->readConfig(0, config);
  EXPECT_EQ(config, FrameWriter().mac(kGuestMac).u16(0x0100).u16(0x0100).u16(0xdc05).zeros(8).frame);
  backend->link = false;
  Frame status(2);
  device->readConfig(6, status);
  EXPECT_EQ(status, Frame(2));
  device->readConfig(UINT32_MAX, status);
  EXPECT_EQ(status, Frame(2));
}

TEST_F(NetDeviceTest, OffersWhatItsBackendCanDo) {
  constexpr std::uint64_t kOffloads = 0x3f83;
  EXPECT_EQ(device->features() & kOffloads, 0U);
  make({.mtu = 0, .offloads = {true, true, true, true}, .checksumsValid = false, .mac = {}, .vhostFd = -1});
  EXPECT_EQ(device->features() & kOffloads, 0x3b83U);
  EXPECT_EQ(device->features() & 1ULL << 3, 0U);
  activate();
  EXPECT_EQ(backend->receiveOffloads, (Offloads{true, true, true, true}));
  // Segmentation without checksums makes no sense (section 5.1.3.1).
  activate(1ULL << 1);
  EXPECT_EQ(backend->receiveOffloads, Offloads{});
  harness->reset();
  EXPECT_EQ(backend->receiveOffloads, Offloads{});
}

TEST_F(NetDeviceTest, TakesTheAddressItsPeerInsistsOn) {
  const net::MacAddress other = {2, 0, 0, 0, 0, 7};
  make({.mtu = 1500, .offloads = {}, .checksumsValid = false, .mac = other, .vhostFd = -1});
  Frame mac(6);
  device->readConfig(0, mac);
  EXPECT_EQ(mac, FrameWriter().mac(other).frame);
}

TEST_F(NetDeviceTest, SendsFramesHoweverTheyAreCut) {
  activate();
  const Frame frame = numbered(100, 7);
  const Frame header(kHeader);
  const std::uint64_t headerAt = harness->allocator.put(header);
  const std::uint64_t frameAt = harness->allocator.put(frame);
  Frame joined = header;
  joined.insert(joined.end(), frame.begin(), frame.end());
  const std::uint64_t joinedAt = harness->allocator.put(joined);
  harness->queue(kSend).offer({{headerAt, kHeader, false}, {frameAt, 100, false}});
  harness->queue(kSend).offer({{joinedAt, 112, false}});
  harness->queue(kSend).offer({{joinedAt, 5, false}, {joinedAt + 5, 30, false}, {joinedAt + 35, 77, false}});
  harness->queue(kSend).offerIndirect({{joinedAt, 60, false}, {joinedAt + 60, 52, false}});
  harness->notify(kSend);
  EXPECT_EQ(backend->sent, std::vector<Frame>(4, frame));
  EXPECT_EQ(usedCount(kSend), 4U);
  EXPECT_EQ(harness->signals.interruptsOf(kSend), 1U);
  EXPECT_EQ(device->statistics().sentFrames, 4U);
  EXPECT_EQ(device->statistics().sentBytes, 400U);
}

TEST_F(NetDeviceTest, DropsWhatIsNoFrame) {
  activate();
  offerFrame(numbered(13, 0));
  offerFrame(numbered(net::kMaxFrameSize + 1, 0));
  offerFrame(numbered(100, 0), {VirtioNetHeader::kNeedsChecksum, 0, 0, 0, 34, 16, 0});
  offerFrame(numbered(100, 0), {0, VirtioNetHeader::kGsoTcp4, 54, 100, 34, 16, 0});
  const std::uint64_t address = harness->allocator.allocate(200);
  harness->queue(kSend).offer({{address, 11, false}});
  harness->queue(kSend).offer({{address, 100, false}, {address + 100, 100, true}});
  harness->queue(kSend).offer({{address, 200, true}});
  offerFrame(numbered(60, 9));
  harness->notify(kSend);
  EXPECT_EQ(backend->sent, std::vector<Frame>{numbered(60, 9)});
  EXPECT_EQ(usedCount(kSend), 8U);
  EXPECT_EQ(device->statistics().sendDropped, 7U);
  EXPECT_FALSE(harness->signals.broken);
}

TEST_F(NetDeviceTest, PassesOffloadsOnAsNegotiated) {
  make({.mtu = 1500, .offloads = {true, true, true, true}, .checksumsValid = false, .mac = {}, .vhostFd = -1});
  activate();
  const VirtioNetHeader segments{VirtioNetHeader::kNeedsChecksum, VirtioNetHeader::kGsoTcp4, 54, 1448, 34, 16, 0};
  offerFrame(numbered(5000, 1), segments);
  harness->notify(kSend);
  ASSERT_EQ(backend->headers.size(), 1U);
  EXPECT_EQ(backend->headers[0].gsoSize, 1448);
  activate(1ULL << 11);
  offerFrame(numbered(5000, 1), segments);
  harness->notify(kSend);
  EXPECT_EQ(backend->headers.size(), 1U);
}

TEST_F(NetDeviceTest, HoldsFramesBackWhileThePeerIsSlow) {
  activate();
  backend->room = 2;
  for (unsigned index = 0; index < 5; index++) {
    offerFrame(numbered(60, index));
    if (index == 3) offerFrame(numbered(5, 0));  // a runt among them
  }
  harness->notify(kSend);
  EXPECT_EQ(usedCount(kSend), 2U);
  harness->notify(kSend);
  EXPECT_EQ(backend->sent.size(), 2U);
  backend->makeRoom(1);
  EXPECT_EQ(usedCount(kSend), 1U);
  backend->makeRoom(10);
  EXPECT_EQ(usedCount(kSend), 3U);
  ASSERT_EQ(backend->sent.size(), 5U);
  for (unsigned index = 0; index < 5; index++) EXPECT_EQ(backend->sent[index], numbered(60, index));
}

TEST_F(NetDeviceTest, ReceivesIntoOneBuffer) {
  activate();
  const std::uint64_t address = offerBuffer(1530);
  harness->notify(kReceive);
  backend->arrive(numbered(300, 3));
  const auto used = harness->queue(kReceive).takeUsed();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->written, kHeader + 300);
  EXPECT_EQ(readHeader(address).bufferCount, 1);
  EXPECT_EQ(readGuest(address + kHeader, 300), numbered(300, 3));
  EXPECT_EQ(harness->signals.interruptsOf(kReceive), 1U);
  EXPECT_EQ(device->statistics().receivedBytes, 300U);
}

TEST_F(NetDeviceTest, MergesBuffersForLongFrames) {
  make({.mtu = 9000, .offloads = {}, .checksumsValid = true, .mac = {}, .vhostFd = -1});
  activate();
  std::vector<std::uint64_t> addresses;
  for (int index = 0; index < 20; index++) addresses.push_back(offerBuffer(1000));
  harness->notify(kReceive);
  Frame frame(2500);
  for (std::size_t index = 0; index < frame.size(); index++) frame[index] = static_cast<std::byte>(index * 7);
  backend->arrive(frame);
  EXPECT_EQ(readHeader(addresses[0]).bufferCount, 3);
  EXPECT_EQ(readHeader(addresses[0]).flags, VirtioNetHeader::kDataValid);
  Frame found = readGuest(addresses[0] + kHeader, 988);
  for (const auto& [address, length] : {std::pair(addresses[1], 1000), std::pair(addresses[2], 512)}) {
    const Frame part = readGuest(address, static_cast<std::size_t>(length));
    found.insert(found.end(), part.begin(), part.end());
  }
  EXPECT_EQ(found, frame);
  std::vector<std::uint32_t> lengths;
  while (const auto used = harness->queue(kReceive).takeUsed()) lengths.push_back(used->written);
  EXPECT_EQ(lengths, (std::vector<std::uint32_t>{1000, 1000, 512}));
  // The rest of the buffers serves the next frame.
  backend->arrive(numbered(60, 1));
  EXPECT_EQ(readGuest(addresses[3] + kHeader, 60), numbered(60, 1));
}

TEST_F(NetDeviceTest, UsesFewBuffersAsSoonAsAFrameFits) {
  // Room for a short frame, not for any possible one.
  activate();
  const std::uint64_t address = offerBuffer(200);
  harness->notify(kReceive);
  backend->arrive(numbered(100, 5));
  EXPECT_EQ(readGuest(address + kHeader, 100), numbered(100, 5));
  EXPECT_EQ(usedCount(kReceive), 1U);
}

TEST_F(NetDeviceTest, WaitsForBuffersAndLosesNoWakeUp) {
  activate();
  backend->arrive(numbered(300, 1));
  backend->arrive(numbered(60, 2));
  EXPECT_FALSE(backend->receiving);
  EXPECT_EQ(usedCount(kReceive), 0U);
  // One buffer is too short for the frame that waits, two are enough.
  const std::uint64_t first = offerBuffer(200);
  harness->notify(kReceive);
  EXPECT_EQ(usedCount(kReceive), 0U);
  EXPECT_FALSE(backend->receiving);
  const std::uint64_t second = offerBuffer(200);
  harness->notify(kReceive);
  EXPECT_EQ(usedCount(kReceive), 2U);
  EXPECT_EQ(readHeader(first).bufferCount, 2);
  EXPECT_EQ(readGuest(second, 112), numbered(112, 1));
  EXPECT_EQ(backend->waiting.size(), 0U);
  const std::uint64_t third = offerBuffer(1530);
  harness->notify(kReceive);
  EXPECT_EQ(readGuest(third + kHeader, 60), numbered(60, 2));
  EXPECT_TRUE(backend->receiving);
}

TEST_F(NetDeviceTest, DropsAFrameNoBufferWillEverHold) {
  activate(kMergeable);
  offerBuffer(100);
  harness->notify(kReceive);
  backend->arrive(numbered(300, 1));
  backend->arrive(numbered(60, 2));
  const auto used = harness->queue(kReceive).takeUsed();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->written, kHeader + 60);
  EXPECT_EQ(device->statistics().receiveDropped, 1U);
}

TEST_F(NetDeviceTest, AMergingDriverWithAShortRingStillReceives) {
  // Its whole ring holds less than the longest frame.
  harness = std::make_unique<DeviceHarness>(*device, 16 << 20, 2);
  activate();
  offerBuffer(200);
  offerBuffer(200);
  harness->notify(kReceive);
  backend->arrive(numbered(1000, 1));
  backend->arrive(numbered(60, 2));
  EXPECT_EQ(device->statistics().receiveDropped, 1U);
  EXPECT_EQ(usedCount(kReceive), 1U);
}

TEST_F(NetDeviceTest, HoldsTheDriverToTheProtocol) {
  activate();
  const std::uint64_t address = harness->allocator.allocate(2000);
  harness->queue(kReceive).offer({{address, 2000, false}});
  harness->notify(kReceive);
  EXPECT_TRUE(harness->signals.broken);
  EXPECT_FALSE(backend->receiving);
  backend->arrive(numbered(60, 1));
  harness->notify(kSend);

  harness->signals.broken.reset();
  activate();
  harness->queue(kSend).setAvailableIndex(5000);
  harness->notify(kSend);
  EXPECT_TRUE(harness->signals.broken);

  harness->signals.broken.reset();
  activate();
  offerBuffer(11);
  harness->notify(kReceive);
  EXPECT_TRUE(harness->signals.broken);

  harness->signals.broken.reset();
  activate();
  offerFrame(numbered(60, 4));
  harness->notify(kSend);
  EXPECT_FALSE(harness->signals.broken);
  EXPECT_EQ(backend->sent, std::vector<Frame>{numbered(60, 4)});
}

TEST_F(NetDeviceTest, RefusesADriverWithoutQueues) {
  const auto memory = test::makeMemory();
  test::RecordingSignals signals;
  EXPECT_FALSE(device->activate({.memory = *memory, .queues = {nullptr, nullptr}, .features = 0, .signals = signals}));
}

TEST_F(NetDeviceTest, TellsTheDriverOfItsLink) {
  activate();
  backend->setLink(false);
  EXPECT_EQ(harness->signals.configChanges, 1U);
  backend->setLink(true);
  EXPECT_EQ(links, (std::vector<bool>{false, true}));
}

TEST_F(NetDeviceTest, ReportsTheGuestsAddress) {
  using Type = net::DhcpMessage::Type;
  activate();
  // In parts, as stacks send them.
  Frame request(kHeader);
  const Frame discover = dhcpFrame(false, Type::kRequest, 77, kGuestMac);
  request.insert(request.end(), discover.begin(), discover.end());
  const std::uint64_t address = harness->allocator.put(request);
  harness->queue(kSend).offer(
      {{address, kHeader + 14, false},
       {address + kHeader + 14, static_cast<std::uint32_t>(request.size() - kHeader - 14), false}});
  harness->notify(kSend);
  for (int index = 0; index < 4; index++) offerBuffer(200);
  harness->notify(kReceive);
  backend->arrive(dhcpFrame(true, Type::kOffer, 77, kGuestMac, 0x0a00020f));
  EXPECT_TRUE(leases.empty());
  backend->arrive(dhcpFrame(true, Type::kAcknowledge, 77, kGuestMac, 0x0a00020f));
  EXPECT_EQ(leases, std::vector<std::string>{"10.0.2.15"});
}

TEST_F(NetDeviceTest, StopsForAPauseAndGoesOnAfterIt) {
  activate();
  for (int index = 0; index < 3; index++) offerBuffer(1530);
  harness->notify(kReceive);
  backend->arrive(numbered(60, 1));
  EXPECT_EQ(usedCount(kReceive), 1U);
  device->pause();
  EXPECT_FALSE(backend->receiving);
  // Nothing is held that a snapshot would lose.
  EXPECT_EQ(harness->deviceQueue(kReceive).position().nextAvailable, 1);
  EXPECT_EQ(harness->deviceQueue(kReceive).position().nextUsed, 1);
  backend->waiting.push_back(numbered(60, 2));
  offerFrame(numbered(60, 3));
  device->resume();
  harness->notify(kReceive);
  harness->notify(kSend);
  EXPECT_EQ(usedCount(kReceive), 1U);
  EXPECT_EQ(backend->sent.size(), 1U);
}

TEST_F(NetDeviceTest, ARestoredGuestKeepsItsAddress) {
  using Type = net::DhcpMessage::Type;
  activate();
  offerFrame(dhcpFrame(false, Type::kRequest, 77, kGuestMac));
  harness->notify(kSend);
  offerBuffer(1530);
  harness->notify(kReceive);
  backend->arrive(dhcpFrame(true, Type::kAcknowledge, 77, kGuestMac, 0x0a00020f));
  device->pause();
  StateWriter writer;
  device->save(writer);
  const Frame state(writer.data().begin(), writer.data().end());
  leases.clear();
  make({.mtu = 1500, .offloads = {}, .checksumsValid = false, .mac = {}, .vhostFd = -1});
  StateReader reader(state);
  ASSERT_TRUE(device->restore(reader));
  device->pause();
  // Not by way of the harness, which resets first.
  const auto memory = test::makeMemory();
  test::GuestAllocator allocator(*memory);
  test::GuestQueue receive(*memory, allocator, 64);
  test::GuestQueue send(*memory, allocator, 64);
  auto receiveQueue = Queue::create(*memory, receive.layout(), 0);
  auto sendQueue = Queue::create(*memory, send.layout(), 0);
  test::RecordingSignals signals;
  ASSERT_TRUE(device->activate({.memory = *memory,
                                .queues = {receiveQueue->get(), sendQueue->get()},
                                .features = kFeatureVersion1,
                                .signals = signals}));
  EXPECT_FALSE(backend->receiving);
  EXPECT_TRUE(leases.empty());
  device->resume();
  EXPECT_TRUE(backend->receiving);
  EXPECT_EQ(leases, std::vector<std::string>{"10.0.2.15"});
  device->reset();
  for (std::size_t length = 0; length < state.size(); length++) {
    StateReader cut{std::span(state).first(length)};
    EXPECT_FALSE(device->restore(cut));
  }
}

TEST_F(NetDeviceTest, NeitherDirectionStarvesTheOther) {
  activate();
  for (int index = 0; index < 100; index++) offerFrame(numbered(60, 1));
  for (int round = 0; round < 30; round++) {
    harness->notify(kSend);
    while (harness->queue(kSend).takeUsed()) offerFrame(numbered(60, 1));
  }
  // More frames at once than a turn takes: the rest comes by itself.
  for (int index = 0; index < 100; index++) offerBuffer(1530);
  for (int index = 0; index < 100; index++) backend->waiting.push_back(numbered(60, 2));
  harness->notify(kReceive);
  EXPECT_TRUE(runUntil(*loop, [&] { return backend->waiting.empty(); }));
}

/// With a real socket on the other side.
TEST(NetDeviceOnASocket, CarriesFramesBothWays) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair), 0);
  const UniqueFd ours(pair[0]);
  const UniqueFd theirs(pair[1]);
  auto loop = EventLoop::create("net");
  auto device = NetDevice::create(
      **loop, "net0", NetworkConfig{.mac = "52:54:00:12:34:56", .backend = DatagramNetwork{"", "", ours.get()}}, {});
  ASSERT_TRUE(device) << device.error().message;
  DeviceHarness harness(**device);
  ASSERT_TRUE(harness.activate());
  const std::uint64_t buffer = harness.allocator.allocate(1530);
  harness.queue(kReceive).offer({{buffer, 1530, true}});
  harness.notify(kReceive);
  const Frame frame = numbered(600, 6);
  ASSERT_EQ(::send(theirs.get(), frame.data(), frame.size(), 0), 600);
  ASSERT_TRUE(runUntil(**loop, [&] { return harness.queue(kReceive).usedIndex() == 1; }));
  Frame found(600);
  ASSERT_TRUE(harness.memory->readBytes(buffer + kHeader, found));
  EXPECT_EQ(found, frame);
  const std::uint64_t outgoing = harness.allocator.allocate(kHeader + 60);
  harness.queue(kSend).offer({{outgoing, kHeader + 60, false}});
  harness.notify(kSend);
  EXPECT_EQ(::recv(theirs.get(), found.data(), found.size(), MSG_DONTWAIT), 60);
  EXPECT_EQ((*device)->addForward({"127.0.0.1", 0, 22, false}).error().code, ErrorCode::kUnsupported);
  EXPECT_FALSE(NetDevice::create(**loop, "net1", NetworkConfig{.mac = "x", .backend = UserNetwork{}}, {}));
}

}  // namespace
}  // namespace tshyve::virtio
