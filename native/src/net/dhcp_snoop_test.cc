#include "net/dhcp_snoop.h"

#include <gtest/gtest.h>

#include "net/testing/frames.h"

namespace tshyve::net {
namespace {

using test::dhcpFrame;
using test::Frame;
using test::FrameWriter;
using test::kGuestMac;
using Type = DhcpMessage::Type;

constexpr std::uint32_t kTransaction = 0x11223344;
constexpr std::uint32_t kAddress = 0x0a00020f;

Frame acknowledgement(const Frame& options = {}) {
  return dhcpFrame(true, Type::kAcknowledge, kTransaction, kGuestMac, kAddress, options);
}

// Offsets in the frames made here: Ethernet 14, IPv4 20, UDP 8.
constexpr std::size_t kIp = 14;
constexpr std::size_t kUdp = kIp + 20;
constexpr std::size_t kBootp = kUdp + 8;

TEST(ParseDhcp, ReadsAnAcknowledgement) {
  const auto message = parseDhcp(acknowledgement(FrameWriter().u8(0).u8(51).u8(4).u32(86400).frame));
  ASSERT_TRUE(message);
  EXPECT_TRUE(message->fromServer);
  EXPECT_EQ(message->type, Type::kAcknowledge);
  EXPECT_EQ(message->transaction, kTransaction);
  EXPECT_EQ(message->client, kGuestMac);
  EXPECT_EQ(toString(message->address), "10.0.2.15");
  EXPECT_EQ(message->leaseSeconds, 86400U);
}

TEST(ParseDhcp, ReadsARequestOfAClient) {
  const auto message = parseDhcp(dhcpFrame(false, Type::kDiscover, 7, kGuestMac));
  ASSERT_TRUE(message);
  EXPECT_FALSE(message->fromServer);
  EXPECT_EQ(message->type, Type::kDiscover);
}

TEST(ParseDhcp, TellsTcpFromUdp) {
  Frame frame = acknowledgement();
  EXPECT_TRUE(mayBeDhcp(frame));
  EXPECT_FALSE(isTcp(frame));
  frame[kIp + 9] = std::byte{6};
  EXPECT_FALSE(mayBeDhcp(frame));
  EXPECT_TRUE(isTcp(frame));
  EXPECT_FALSE(isTcp(std::span(frame).first(kDhcpPeekSize - 1)));
}

TEST(ParseDhcp, IgnoresEthernetPadding) {
  Frame frame = acknowledgement();
  frame.resize(frame.size() + 20, std::byte{53});
  EXPECT_TRUE(parseDhcp(frame));
}

TEST(ParseDhcp, FindsOptionsThatOverflowedIntoFileAndServerName) {
  // The type is in the file field, the lease time in the server name (RFC 2132, 9.3).
  Frame frame = acknowledgement(FrameWriter().u8(52).u8(1).u8(3).frame);
  frame[kBootp + 240 + 2] = std::byte{0};
  frame[kBootp + 240] = frame[kBootp + 241] = std::byte{0};
  const Frame type = FrameWriter().u8(53).u8(1).u8(5).u8(255).frame;
  std::copy(type.begin(), type.end(), frame.begin() + kBootp + 108);
  const Frame lease = FrameWriter().u8(51).u8(4).u32(60).u8(255).frame;
  std::copy(lease.begin(), lease.end(), frame.begin() + kBootp + 44);
  const auto message = parseDhcp(frame);
  ASSERT_TRUE(message);
  EXPECT_EQ(message->type, Type::kAcknowledge);
  EXPECT_EQ(message->leaseSeconds, 60U);
}

TEST(ParseDhcp, ToleratesIpOptions) {
  Frame frame = acknowledgement();
  frame.insert(frame.begin() + kUdp, 4, std::byte{1});
  frame[kIp] = std::byte{0x46};
  const std::size_t total = frame.size() - kIp;
  frame[kIp + 2] = static_cast<std::byte>(total >> 8);
  frame[kIp + 3] = static_cast<std::byte>(total & 0xff);
  EXPECT_TRUE(parseDhcp(frame));
}

struct Damage {
  const char* name;
  std::size_t offset;
  unsigned value;
};
class ParseDhcpDamaged : public testing::TestWithParam<Damage> {};
INSTANTIATE_TEST_SUITE_P(
    Fields, ParseDhcpDamaged,
    testing::Values(Damage{"VlanTag", 12, 0x81}, Damage{"IpVersion", kIp, 0x65}, Damage{"ShortIpHeader", kIp, 0x44},
                    Damage{"IpHeaderBeyondTotal", kIp, 0x4f}, Damage{"TotalBeyondFrame", kIp + 2, 0xff},
                    Damage{"MoreFragments", kIp + 6, 0x20}, Damage{"FragmentOffset", kIp + 7, 1},
                    Damage{"NotUdp", kIp + 9, 6}, Damage{"SourcePort", kUdp + 1, 69},
                    Damage{"DestinationPort", kUdp + 3, 69}, Damage{"UdpBeyondPacket", kUdp + 4, 0xff},
                    Damage{"Operation", kBootp, 1}, Damage{"HardwareType", kBootp + 1, 6},
                    Damage{"HardwareLength", kBootp + 2, 16}, Damage{"Cookie", kBootp + 236, 0},
                    Damage{"NoMessageType", kBootp + 240, 54}, Damage{"MessageType", kBootp + 242, 200},
                    Damage{"OptionBeyondEnd", kBootp + 241, 200}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST_P(ParseDhcpDamaged, IsNoMessage) {
  Frame frame = acknowledgement();
  ASSERT_NE(frame[GetParam().offset], static_cast<std::byte>(GetParam().value));
  frame[GetParam().offset] = static_cast<std::byte>(GetParam().value);
  EXPECT_FALSE(parseDhcp(frame));
}

TEST(ParseDhcp, RefusesEveryTruncation) {
  const Frame frame = acknowledgement();
  for (std::size_t length = 0; length < frame.size(); length++) {
    EXPECT_FALSE(parseDhcp(std::span(frame).first(length))) << length;
  }
}

class DhcpSnoopTest : public testing::Test {
 protected:
  std::vector<std::string> leases;
  DhcpSnoop snoop{kGuestMac, [this](const DhcpSnoop::Lease& lease) {
                    leases.push_back(toString(lease.address) + "/" + std::to_string(lease.seconds));
                  }};
};

TEST_F(DhcpSnoopTest, ReportsTheAnswerToTheGuestsRequestOnce) {
  snoop.fromGuest(dhcpFrame(false, Type::kDiscover, kTransaction, kGuestMac));
  snoop.toGuest(dhcpFrame(true, Type::kOffer, kTransaction, kGuestMac, kAddress));
  snoop.fromGuest(dhcpFrame(false, Type::kRequest, kTransaction, kGuestMac));
  EXPECT_TRUE(leases.empty());
  snoop.toGuest(acknowledgement(FrameWriter().u8(51).u8(4).u32(3600).frame));
  snoop.toGuest(acknowledgement());
  EXPECT_EQ(leases, std::vector<std::string>{"10.0.2.15/3600"});
}

TEST_F(DhcpSnoopTest, ReportsRenewals) {
  for (const std::uint32_t address : {kAddress, kAddress + 1}) {
    snoop.fromGuest(dhcpFrame(false, Type::kRequest, kTransaction, kGuestMac));
    snoop.toGuest(dhcpFrame(true, Type::kAcknowledge, kTransaction, kGuestMac, address));
  }
  EXPECT_EQ(leases, (std::vector<std::string>{"10.0.2.15/0", "10.0.2.16/0"}));
}

TEST_F(DhcpSnoopTest, IgnoresAnswersToOthers) {
  snoop.toGuest(acknowledgement());  // nobody asked
  snoop.fromGuest(dhcpFrame(false, Type::kRequest, kTransaction, kGuestMac));
  MacAddress other = kGuestMac;
  other[5]++;
  snoop.toGuest(dhcpFrame(true, Type::kAcknowledge, kTransaction, other, kAddress));
  snoop.toGuest(dhcpFrame(true, Type::kAcknowledge, kTransaction + 1, kGuestMac, kAddress));
  snoop.toGuest(dhcpFrame(true, Type::kRefuse, kTransaction, kGuestMac, kAddress));
  snoop.toGuest(dhcpFrame(false, Type::kAcknowledge, kTransaction, kGuestMac, kAddress));
  EXPECT_TRUE(leases.empty());
  snoop.toGuest(acknowledgement());
  EXPECT_EQ(leases.size(), 1U);
}

TEST_F(DhcpSnoopTest, IgnoresAddressesNoHostCanHave) {
  for (const std::uint32_t address : {0U, 0x7f000001U, 0xe0000001U, 0xffffffffU}) {
    snoop.fromGuest(dhcpFrame(false, Type::kRequest, kTransaction, kGuestMac));
    snoop.toGuest(dhcpFrame(true, Type::kAcknowledge, kTransaction, kGuestMac, address));
  }
  EXPECT_TRUE(leases.empty());
}

}  // namespace
}  // namespace tshyve::net
