#include "net/switch/user_switch.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "net/datagram_backend.h"
#include "net/testing/frames.h"

namespace tshyve::net {
namespace {

using test::dhcpFrame;
using test::Frame;
using test::FrameWriter;
using test::receiveFrame;
using test::runUntil;
using test::sendFrames;
using test::udpFrame;
using Type = DhcpMessage::Type;

constexpr MacAddress kOne = {0x52, 0x54, 0, 0, 0, 1};
constexpr MacAddress kTwo = {0x52, 0x54, 0, 0, 0, 2};
constexpr MacAddress kBroadcast = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
constexpr std::uint32_t kNameServer = 0x0a000203;
constexpr std::uint32_t kAddressOne = 0x0a00020f;

/// A machine's end of a port of the switch.
struct Machine {
  std::unique_ptr<FrameBackend> backend;
  test::RecordingListener listener;
};

class UserSwitchTest : public testing::Test {
 protected:
  void SetUp() override {
    loop = std::move(EventLoop::create("test")).value();
    auto created = UserSwitch::create(
        *loop, {"tshyve.internal", {"host.docker.internal"}}, {},
        [this](const std::string& mac, const std::string& address) { acknowledged.push_back(mac + " " + address); });
    ASSERT_TRUE(created) << created.error().message;
    network = std::move(created).value();
    one = join(kOne, "10.0.2.15", "one");
    two = join(kTwo, "10.0.2.16", "two");
  }
  std::unique_ptr<Machine> join(const MacAddress& mac, const std::string& address, const std::string& name) {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    UserSwitchMachine machine{toString(mac), address, name, {}};
    machine.socket.fd = ends[0];
    const auto added = network->addMachine(machine);
    EXPECT_TRUE(added) << added.error().message;
    auto result = std::make_unique<Machine>();
    DatagramNetwork other;
    other.fd = ends[1];
    result->backend = std::move(DatagramBackend::create(*loop, other, {})).value();
    result->backend->setListener(&result->listener);
    result->backend->setReceiving(true);
    return result;
  }
  std::optional<Frame> receive(Machine& machine) {
    std::optional<Frame> frame;
    runUntil(*loop, [&] { return (frame = receiveFrame(*machine.backend)).has_value(); });
    return frame;
  }
  /// What the machine gets within a moment that is long enough for all that is under way.
  std::optional<Frame> receiveNothing(Machine& machine) {
    for (int round = 0; round < 5; round++) loop->runOnce(std::chrono::milliseconds(2));
    return receiveFrame(*machine.backend);
  }
  static Frame question(const std::string& first, const std::string& rest, unsigned type) {
    FrameWriter query;
    query.u16(0x1234).u16(0x0100).u16(1).u16(0).u16(0).u16(0);
    query.u8(static_cast<unsigned>(first.size())).text(first);
    if (!rest.empty()) {
      const auto dot = rest.find('.');
      query.u8(static_cast<unsigned>(dot)).text(rest.substr(0, dot));
      query.u8(static_cast<unsigned>(rest.size() - dot - 1)).text(rest.substr(dot + 1));
    }
    query.u8(0).u16(type).u16(1);
    return udpFrame({0x52, 0x55, 10, 0, 2, 3}, kOne, {kAddressOne, kNameServer, 4000, 53}, query.frame);
  }

  std::unique_ptr<EventLoop> loop;
  std::vector<std::string> acknowledged;
  std::unique_ptr<UserSwitch> network;
  std::unique_ptr<Machine> one;
  std::unique_ptr<Machine> two;
};

TEST_F(UserSwitchTest, GivesEachMachineItsOwnAddressAndTellsAtOnce) {
  sendFrames(*two->backend, {dhcpFrame(false, Type::kDiscover, 7, kTwo)});
  auto reply = receive(*two);
  ASSERT_TRUE(reply);
  auto message = parseDhcp(*reply);
  ASSERT_TRUE(message);
  EXPECT_EQ(message->type, Type::kOffer);
  EXPECT_EQ(toString(message->address), "10.0.2.16");
  EXPECT_TRUE(acknowledged.empty());

  FrameWriter options;
  options.u8(50).u8(4).u32(0x0a000210).u8(54).u8(4).u32(0x0a000202);
  sendFrames(*two->backend, {dhcpFrame(false, Type::kRequest, 8, kTwo, 0, options.frame)});
  message = parseDhcp(receive(*two).value());
  ASSERT_TRUE(message);
  EXPECT_EQ(message->type, Type::kAcknowledge);
  EXPECT_EQ(toString(message->address), "10.0.2.16");
  EXPECT_EQ(message->leaseSeconds, 86400U);
  EXPECT_EQ(acknowledged, std::vector<std::string>{"52:54:00:00:00:02 10.0.2.16"});
  // Answers go to the machine that asked.
  EXPECT_FALSE(receiveNothing(*one));
}

TEST_F(UserSwitchTest, RefusesAnAddressThatIsNotTheMachines) {
  FrameWriter options;
  options.u8(50).u8(4).u32(0x0a0002fe);
  sendFrames(*one->backend, {dhcpFrame(false, Type::kRequest, 8, kOne, 0, options.frame)});
  const auto message = parseDhcp(receive(*one).value());
  ASSERT_TRUE(message);
  EXPECT_EQ(message->type, Type::kRefuse);
  EXPECT_TRUE(acknowledged.empty());
}

TEST_F(UserSwitchTest, IgnoresRequestsForSomebodyElse) {
  // The frame is the machine's own, the hardware address inside is not.
  const Frame payload = test::dhcpPayload(false, Type::kDiscover, 9, kTwo, 0);
  sendFrames(*one->backend, {udpFrame(kBroadcast, kOne, {0, 0xffffffff, 68, 67}, payload)});
  EXPECT_FALSE(receiveNothing(*one));
  EXPECT_FALSE(receiveNothing(*two));
}

TEST_F(UserSwitchTest, CarriesFramesBetweenMachines) {
  const Frame unicast = udpFrame(kTwo, kOne, {1, 2, 3, 4}, Frame(1000));
  const Frame broadcast = udpFrame(kBroadcast, kTwo, {1, 2, 3, 4}, Frame(10));
  sendFrames(*one->backend, {unicast});
  EXPECT_EQ(receive(*two), unicast);
  sendFrames(*two->backend, {broadcast});
  EXPECT_EQ(receive(*one), broadcast);
  // libslirp may have something to say to it; the frame itself does not come back.
  EXPECT_NE(receiveNothing(*two), broadcast);
}

TEST_F(UserSwitchTest, DropsFramesWithAForeignSource) {
  sendFrames(*one->backend, {udpFrame(kTwo, kTwo, {1, 2, 3, 4}, Frame(10))});
  EXPECT_FALSE(receiveNothing(*two));
  EXPECT_EQ(network->counters().spoofed, 1U);
}

TEST_F(UserSwitchTest, AnswersForMachinesAndTheHost) {
  const std::pair<Frame, std::uint32_t> cases[] = {
      {question("two", "", 1), 0x0a000210},
      {question("TWO", "tshyve.internal", 1), 0x0a000210},
      {question("host", "docker.internal", 1), 0x0a000202},
  };
  for (const auto& [query, expected] : cases) {
    sendFrames(*one->backend, {query});
    const auto reply = receive(*one);
    ASSERT_TRUE(reply);
    const auto datagram = parseUdpFrame(*reply);
    ASSERT_TRUE(datagram);
    EXPECT_EQ(datagram->sourcePort, 53);
    EXPECT_EQ(readBig16(datagram->payload, 0), 0x1234);
    EXPECT_EQ(readBig16(datagram->payload, 6), 1);
    EXPECT_EQ(readBig32(datagram->payload, datagram->payload.size() - 4), expected);
  }
  // An address of another kind: the name exists, and has none.
  sendFrames(*one->backend, {question("two", "", 28)});
  const auto answer = receive(*one);
  ASSERT_TRUE(answer);
  const auto reply = parseUdpFrame(*answer);
  ASSERT_TRUE(reply);
  EXPECT_EQ(readBig16(reply->payload, 2) & 0xf, 0);
  EXPECT_EQ(readBig16(reply->payload, 6), 0);
}

TEST_F(UserSwitchTest, ForwardsLeadToTheMachineTheyAreFor) {
  ForwardConfig forward;
  forward.hostAddress = "127.0.0.1";
  forward.guestPort = 22;
  forward.guestAddress = "10.0.2.16";
  const auto port = network->addForward(forward);
  ASSERT_TRUE(port) << port.error().message;
  const UniqueFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(*port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  // libslirp asks for the machine's hardware address, by a broadcast that names its IPv4 address (RFC 826).
  bool asked = false;
  runUntil(*loop, [&] {
    while (const auto frame = receiveFrame(*two->backend)) {
      if (readBig16(*frame, 12) == 0x0806 && readBig32(*frame, 38) == 0x0a000210) asked = true;
    }
    return asked;
  });
  EXPECT_TRUE(asked);
  forward.guestAddress = "10.0.2.99";
  EXPECT_FALSE(network->addForward(forward));
}

TEST_F(UserSwitchTest, ALeavingMachineTakesItsForwardsAndNameAlong) {
  ForwardConfig forward;
  forward.hostAddress = "127.0.0.1";
  forward.guestPort = 22;
  forward.guestAddress = "10.0.2.16";
  forward.hostPort = network->addForward(forward).value();
  ASSERT_TRUE(network->removeMachine(toString(kTwo)));
  ASSERT_TRUE(network->removeMachine(toString(kTwo)));
  EXPECT_FALSE(network->removeForward(forward));
  auto again = join(kTwo, "10.0.2.16", "two");
  ASSERT_TRUE(network->addForward(forward)) << "the port is free again";
  int ends[2] = {-1, -1};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  const UniqueFd other(ends[1]);
  UserSwitchMachine clash{"52:54:00:00:00:03", "10.0.2.16", "three", {}};
  clash.socket.fd = ends[0];
  EXPECT_FALSE(network->addMachine(clash));
}

TEST_F(UserSwitchTest, BadDatagramsAreNoQuestions) {
  Frame query = question("two", "", 1);
  for (std::size_t length = 0; length < query.size(); length++) {
    EXPECT_FALSE(NameService({10, 0, 2, 3}, {}).answer(std::span(query).first(length)));
  }
}

}  // namespace
}  // namespace tshyve::net
