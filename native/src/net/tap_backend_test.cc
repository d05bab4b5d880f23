#include "net/tap_backend.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "net/testing/frames.h"
#include "net/testing/network_namespace.h"

namespace tshyve::net {
namespace {

using test::Frame;
using test::FrameWriter;
using test::receiveFrame;
using test::runUntil;
using test::sendFrames;

// A type no protocol stack answers to (IEEE 802 local experimental).
constexpr unsigned kExperimental = 0x88b5;
constexpr MacAddress kOther = {0x02, 0, 0, 0, 0, 9};

Frame experimental(std::size_t payload, unsigned value) {
  return FrameWriter()
      .mac(kOther)
      .mac(test::kGuestMac)
      .u16(kExperimental)
      .append(Frame(payload, std::byte(value)))
      .frame;
}

/// The host's end of the tap: a packet socket on the interface.
class HostEnd {
 public:
  explicit HostEnd(const std::string& name)
      : socket_(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(kExperimental))) {
    ifreq request = test::interfaceRequest(name);
    EXPECT_EQ(::ioctl(socket_.get(), SIOCGIFINDEX, &request), 0);
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(kExperimental);
    address.sll_ifindex = request.ifr_ifindex;
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    const timeval limit{5, 0};
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  }
  Frame receive() {
    Frame frame(70000);
    const ssize_t count = ::recv(socket_.get(), frame.data(), frame.size(), 0);
    EXPECT_GT(count, 0);
    frame.resize(static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    return frame;
  }
  void send(const Frame& frame) {
    EXPECT_EQ(::send(socket_.get(), frame.data(), frame.size(), 0), static_cast<ssize_t>(frame.size()));
  }

 private:
  UniqueFd socket_;
};

class TapBackendTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!network.entered() && std::getenv("CI") == nullptr) {
      GTEST_SKIP() << "taps are tested in a network namespace, which takes root";
    }
    ASSERT_TRUE(network.entered());
    loop = std::move(EventLoop::create("test")).value();
  }
  std::unique_ptr<TapBackend> open(const TapNetwork& config) {
    auto created = TapBackend::create(*loop, config);
    EXPECT_TRUE(created) << created.error().message;
    if (!created) return nullptr;
    (*created)->setListener(&listener);
    (*created)->setReceiving(true);
    return std::move(created).value();
  }
  /// The next experimental frame; the kernel's own chatter is skipped.
  std::optional<Frame> receiveExperimental(TapBackend& backend, std::size_t capacity = kMaxFrameSize) {
    std::optional<Frame> found;
    runUntil(*loop, [&] {
      while (auto frame = receiveFrame(backend, capacity)) {
        if (frame->size() >= 14 && (*frame)[12] == std::byte{0x88} && (*frame)[13] == std::byte{0xb5}) found = frame;
        if (found) return true;
      }
      return false;
    });
    return found;
  }
  test::NetworkNamespace network;
  std::unique_ptr<EventLoop> loop;
  test::RecordingListener listener;
};

TEST_F(TapBackendTest, ExchangesFramesWithTheHost) {
  ASSERT_TRUE(test::createTap("t0"));
  ASSERT_TRUE(test::setMtu("t0", 9000));
  const auto backend = open({"t0", -1, true});
  ASSERT_TRUE(backend);
  ASSERT_TRUE(test::setUp("t0"));
  EXPECT_EQ(backend->properties().mtu, 9000);
  EXPECT_EQ(backend->properties().offloads, (Offloads{.checksum = true, .tso4 = true, .tso6 = true, .ecn = true}));
  EXPECT_GE(backend->properties().vhostFd, 0);
  HostEnd host("t0");
  EXPECT_EQ(sendFrames(*backend, {experimental(46, 1), experimental(9000, 2)}), 2U);
  EXPECT_EQ(host.receive(), experimental(46, 1));
  EXPECT_EQ(host.receive(), experimental(9000, 2));
  host.send(experimental(200, 3));
  EXPECT_TRUE(runUntil(*loop, [&] { return listener.ready > 0; }));
  host.send(experimental(100, 4));
  EXPECT_EQ(receiveExperimental(*backend, 200), experimental(100, 4));
  EXPECT_GE(backend->counters().receiveDropped, 1U);
}

TEST_F(TapBackendTest, WorksWithoutHeaders) {
  ASSERT_TRUE(test::createTap("t0", IFF_TAP | IFF_NO_PI));
  const UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  ifreq request = test::interfaceRequest("t0");
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  ASSERT_EQ(::ioctl(tap.get(), TUNSETIFF, &request), 0);
  const auto backend = open({"", tap.get(), true});
  ASSERT_TRUE(backend);
  ASSERT_TRUE(test::setUp("t0"));
  EXPECT_EQ(backend->properties().offloads, Offloads{});
  EXPECT_EQ(backend->properties().vhostFd, -1);
  HostEnd host("t0");
  EXPECT_EQ(sendFrames(*backend, {experimental(46, 1)}), 1U);
  EXPECT_EQ(host.receive(), experimental(46, 1));
  host.send(experimental(100, 4));
  EXPECT_EQ(receiveExperimental(*backend), experimental(100, 4));
}

TEST_F(TapBackendTest, AttachesToMultiQueueInterfaces) {
  ASSERT_TRUE(test::createTap("t0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE));
  EXPECT_TRUE(open({"t0", -1, false}));
}

TEST_F(TapBackendTest, DropsFramesTheKernelRefuses) {
  ASSERT_TRUE(test::createTap("t0"));
  const auto backend = open({"t0", -1, false});
  ASSERT_TRUE(backend);
  // The interface is down.
  EXPECT_EQ(sendFrames(*backend, {experimental(46, 1)}), 1U);
  EXPECT_EQ(backend->counters().sendDropped, 1U);
}

TEST_F(TapBackendTest, SetsOffloads) {
  ASSERT_TRUE(test::createTap("t0"));
  const auto backend = open({"t0", -1, false});
  ASSERT_TRUE(backend);
  EXPECT_TRUE(backend->setReceiveOffloads({.checksum = true, .tso4 = true, .tso6 = false, .ecn = true}));
  EXPECT_TRUE(backend->setReceiveOffloads({.checksum = false, .tso4 = true, .tso6 = true, .ecn = false}));
  EXPECT_TRUE(backend->setReceiveOffloads({}));
}

TEST_F(TapBackendTest, SaysWhatIsWrongWithAnInterface) {
  const auto missing = TapBackend::create(*loop, {"t0", -1, true});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(TapBackend::create(*loop, {"a-name-that-is-too-long", -1, true}).error().code, ErrorCode::kInvalidArgument);
  ASSERT_TRUE(test::createTap("t0"));
  const auto first = open({"t0", -1, true});
  const auto second = TapBackend::create(*loop, {"t0", -1, true});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kBusy);
  const UniqueFd other(::open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_EQ(TapBackend::create(*loop, {"", other.get(), true}).error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace tshyve::net
