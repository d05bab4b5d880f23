#include "net/slirp_backend.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "base/testing/temporary_folder.h"
#include "net/testing/frames.h"
#include "net/testing/network_namespace.h"

namespace tshyve::net {
namespace {

using test::dhcpFrame;
using test::Frame;
using test::FrameWriter;
using test::kGuestMac;
using test::receiveFrame;
using test::runUntil;
using test::sendFrames;
using test::udpFrame;
using Type = DhcpMessage::Type;

constexpr std::uint32_t kGuest = 0x0a00020f;
constexpr std::uint32_t kHost = 0x0a000202;

unsigned big16(const Frame& frame, std::size_t at) {
  return std::to_integer<unsigned>(frame[at]) << 8 | std::to_integer<unsigned>(frame[at + 1]);
}

sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

class SlirpBackendTest : public testing::Test {
 protected:
  void SetUp() override {
    loop = std::move(EventLoop::create("test")).value();
    auto created = SlirpBackend::create(*loop, UserNetwork{"dev-a"}, {});
    ASSERT_TRUE(created) << created.error().message;
    backend = std::move(created).value();
    backend->setListener(&listener);
    backend->setReceiving(true);
  }
  /// The next frame for which the predicate holds; ARP requests for the guest are answered on the way.
  template <typename Predicate>
  std::optional<Frame> waitFor(Predicate predicate) {
    std::optional<Frame> found;
    runUntil(*loop, [&] {
      while (!found) {
        const auto frame = receiveFrame(*backend);
        if (!frame) break;
        if (big16(*frame, 12) == 0x0806 && big16(*frame, 20) == 1) answerArp(*frame);
        if (predicate(*frame)) found = frame;
      }
      return found.has_value();
    });
    return found;
  }
  void answerArp(const Frame& request) {
    FrameWriter reply;
    reply.frame.insert(reply.frame.end(), request.begin() + 6, request.begin() + 12);
    reply.mac(kGuestMac).u16(0x0806).u16(1).u16(0x0800).u8(6).u8(4).u16(2).mac(kGuestMac).u32(kGuest);
    reply.frame.insert(reply.frame.end(), request.begin() + 22, request.begin() + 32);
    sendFrames(*backend, {reply.frame});
  }
  std::optional<DhcpMessage> exchange(const Frame& request) {
    EXPECT_EQ(sendFrames(*backend, {request}), 1U);
    const auto answer = waitFor([](const Frame& frame) { return parseDhcp(frame).has_value(); });
    return answer ? parseDhcp(*answer) : std::nullopt;
  }
  std::unique_ptr<EventLoop> loop;
  test::RecordingListener listener;
  std::unique_ptr<SlirpBackend> backend;
};

TEST_F(SlirpBackendTest, GivesTheGuestAnAddressByDhcp) {
  const auto offer = exchange(dhcpFrame(false, Type::kDiscover, 5, kGuestMac));
  ASSERT_TRUE(offer);
  EXPECT_EQ(offer->type, Type::kOffer);
  const auto acknowledgement =
      exchange(dhcpFrame(false, Type::kRequest, 6, kGuestMac, 0, FrameWriter().u8(50).u8(4).u32(kGuest).frame));
  ASSERT_TRUE(acknowledgement);
  EXPECT_EQ(acknowledgement->type, Type::kAcknowledge);
  EXPECT_EQ(toString(acknowledgement->address), "10.0.2.15");
  EXPECT_GT(acknowledgement->leaseSeconds, 0U);
}

TEST_F(SlirpBackendTest, TellsTheGuestItsHostname) {
  sendFrames(*backend, {dhcpFrame(false, Type::kDiscover, 5, kGuestMac)});
  const auto offer = waitFor([](const Frame& frame) { return parseDhcp(frame).has_value(); });
  ASSERT_TRUE(offer);
  const Frame option = FrameWriter().u8(12).u8(5).text("dev-a").frame;
  EXPECT_NE(std::search(offer->begin(), offer->end(), option.begin(), option.end()), offer->end());
}

TEST_F(SlirpBackendTest, LeadsTheGuestToTheHostsLoopback) {
  const UniqueFd server(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_in address = loopback(0);
  ASSERT_EQ(::bind(server.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  socklen_t size = sizeof address;
  ::getsockname(server.get(), reinterpret_cast<sockaddr*>(&address), &size);
  const MacAddress gateway = {0x52, 0x55, 10, 0, 2, 2};
  sendFrames(*backend, {udpFrame(gateway, kGuestMac, {kGuest, kHost, 1111, ntohs(address.sin_port)},
                                 FrameWriter().text("ping").frame)});
  std::array<char, 16> received{};
  sockaddr_in from{};
  ASSERT_TRUE(runUntil(*loop, [&] {
    size = sizeof from;
    return ::recvfrom(server.get(), received.data(), received.size(), 0, reinterpret_cast<sockaddr*>(&from), &size) ==
           4;
  }));
  EXPECT_STREQ(received.data(), "ping");
  // And back: read from the host's socket by the loop.
  ASSERT_EQ(::sendto(server.get(), "pong", 4, 0, reinterpret_cast<const sockaddr*>(&from), sizeof from), 4);
  const auto answer = waitFor([](const Frame& frame) { return frame.size() >= 46 && big16(frame, 36) == 1111; });
  ASSERT_TRUE(answer);
  EXPECT_EQ(Frame(answer->begin() + 42, answer->begin() + 46), FrameWriter().text("pong").frame);
}

TEST_F(SlirpBackendTest, ForwardsTcpFromAPortItReports) {
  const auto port = backend->addForward({"127.0.0.1", 0, 22, false});
  ASSERT_TRUE(port) << port.error().message;
  EXPECT_GT(*port, 0);
  const UniqueFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = loopback(*port);
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  const auto syn = waitFor([](const Frame& frame) { return frame.size() >= 54 && frame[23] == std::byte{6}; });
  ASSERT_TRUE(syn);
  EXPECT_EQ(big16(*syn, 36), 22U);
  EXPECT_EQ((*syn)[47], std::byte{2});
  EXPECT_TRUE(std::equal(kGuestMac.begin(), kGuestMac.end(), syn->begin(),
                         [](std::uint8_t expected, std::byte found) { return std::byte{expected} == found; }));
  // A burst of connections does not wait for this loop, which does not run now.
  std::vector<UniqueFd> burst;
  for (int index = 0; index < 20; index++) {
    burst.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    ::connect(burst.back().get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
    pollfd connected{burst.back().get(), POLLOUT, 0};
    ASSERT_EQ(::poll(&connected, 1, 500), 1) << index;
  }
  ASSERT_TRUE(backend->removeForward({"127.0.0.1", *port, 22, false}));
  const UniqueFd late(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_NE(::connect(late.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(backend->removeForward({"127.0.0.1", *port, 22, false}).error().code, ErrorCode::kNotFound);
}

TEST_F(SlirpBackendTest, ForwardsUdp) {
  const auto port = backend->addForward({"127.0.0.1", 0, 53, true});
  ASSERT_TRUE(port) << port.error().message;
  const UniqueFd client(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const sockaddr_in address = loopback(*port);
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::send(client.get(), "query", 5, 0), 5);
  const auto query = waitFor([](const Frame& frame) { return frame.size() >= 47 && frame[23] == std::byte{17}; });
  ASSERT_TRUE(query);
  EXPECT_EQ(big16(*query, 36), 53U);
  EXPECT_EQ(Frame(query->begin() + 42, query->begin() + 47), FrameWriter().text("query").frame);
  const MacAddress gateway = {0x52, 0x55, 10, 0, 2, 2};
  sendFrames(*backend,
             {udpFrame(gateway, kGuestMac, {kGuest, kHost, 53, big16(*query, 34)}, FrameWriter().text("ok").frame)});
  std::array<char, 16> received{};
  EXPECT_TRUE(runUntil(*loop, [&] { return ::recv(client.get(), received.data(), received.size(), 0) == 2; }));
  ASSERT_TRUE(backend->removeForward({"127.0.0.1", *port, 53, true}));
}

TEST_F(SlirpBackendTest, SaysWhyAPortCannotBeForwarded) {
  const UniqueFd taken(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = loopback(0);
  ASSERT_EQ(::bind(taken.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(taken.get(), 1), 0);
  socklen_t size = sizeof address;
  ::getsockname(taken.get(), reinterpret_cast<sockaddr*>(&address), &size);
  EXPECT_EQ(backend->addForward({"127.0.0.1", ntohs(address.sin_port), 22, false}).error().code, ErrorCode::kBusy);
  EXPECT_EQ(backend->addForward({"localhost", 0, 22, false}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(backend->addForward({"127.0.0.1", 0, 0, false}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_FALSE(backend->addForward({"192.0.2.1", 0, 22, false}));
}

TEST_F(SlirpBackendTest, SurvivesAnythingTheGuestSends) {
  std::uint32_t seed = 1;
  for (int round = 0; round < 2000; round++) {
    Frame frame(seed % 2000);
    for (std::byte& byte : frame) byte = static_cast<std::byte>((seed = seed * 1664525 + 1013904223) >> 24);
    if (frame.size() > 14 && round % 2 == 0) frame[12] = std::byte{8}, frame[13] = std::byte{0};
    EXPECT_EQ(sendFrames(*backend, {frame}), 1U);
  }
  EXPECT_EQ(sendFrames(*backend, {Frame(kMaxFrameSize)}), 1U);
  EXPECT_EQ(backend->counters().sendDropped, 1U);
  loop->runOnce(std::chrono::milliseconds(0));
  EXPECT_TRUE(exchange(dhcpFrame(false, Type::kDiscover, 5, kGuestMac)));
}

TEST(SlirpLibrary, NamesThePackageWhenItIsMissing) {
  const auto library = SlirpLibrary::load("libslirp-that-is-not-there.so.0");
  ASSERT_FALSE(library);
  EXPECT_EQ(library.error().code, ErrorCode::kUnsupported);
  EXPECT_NE(library.error().message.find("libslirp0"), std::string::npos);
  const auto wrong = SlirpLibrary::load("libc.so.6");
  ASSERT_FALSE(wrong);
  EXPECT_NE(wrong.error().message.find("older"), std::string::npos);
}

/// A name server of the host: a UDP socket at port 53 of a loopback address.
UniqueFd nameServer(const char* text) {
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_in address = loopback(53);
  ::inet_pton(AF_INET, text, &address.sin_addr);
  EXPECT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0) << text;
  return socket;
}

TEST(SlirpResolverTest, AsksTheNameServerThatTheHostHasNow) {
  bool permitted = true;
  // Of its own, since the namespaces are a thread's: it takes them along when it ends.
  std::thread([&] {
    const TemporaryFolder folder;
    const std::string config = folder.path("resolv.conf");
    const auto resolver = [&](const char* server) { std::ofstream(config) << "nameserver " << server << "\n"; };
    resolver("127.0.0.2");
    const test::NetworkNamespace network;
    permitted = network.entered() && ::unshare(CLONE_NEWNS) == 0 &&
                ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                ::mount(config.c_str(), "/etc/resolv.conf", nullptr, MS_BIND, nullptr) == 0;
    if (!permitted) return;
    ASSERT_TRUE(test::setUp("lo"));
    const UniqueFd first = nameServer("127.0.0.2");
    const UniqueFd second = nameServer("127.0.0.3");
    auto loop = std::move(EventLoop::create("test")).value();
    auto backend = std::move(SlirpBackend::create(*loop, UserNetwork{"dev-a"}, {})).value();
    const auto asks = [&](std::uint16_t port, const UniqueFd& server) {
      const Frame question = FrameWriter().u16(port).u16(0x0100).u16(1).u16(0).u16(0).u16(0).u8(1).u8('a').u8(0).frame;
      sendFrames(*backend, {udpFrame({0x52, 0x55, 10, 0, 2, 3}, kGuestMac, {kGuest, 0x0a000203, port, 53}, question)});
      std::array<std::byte, 64> bytes{};
      ssize_t count = -1;
      runUntil(*loop, [&] { return (count = ::recv(server.get(), bytes.data(), bytes.size(), 0)) >= 0; });
      return count == static_cast<ssize_t>(question.size());
    };
    EXPECT_TRUE(asks(4001, first));
    // As a VPN does when it comes up.
    resolver("127.0.0.3");
    // libslirp looks at most once a second.
    std::this_thread::sleep_for(std::chrono::milliseconds(1100));
    EXPECT_TRUE(asks(4002, second));
  }).join();
  if (!permitted) GTEST_SKIP() << "needs the right to make namespaces";
}

}  // namespace
}  // namespace tshyve::net
