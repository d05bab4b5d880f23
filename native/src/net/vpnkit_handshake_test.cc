#include "net/vpnkit_handshake.h"

#include <gtest/gtest.h>

#include "net/testing/frames.h"

namespace tshyve::net {
namespace {

using test::Frame;
using test::FrameWriter;

constexpr const char* kUuid = "2b1b7e3c-7f4c-4b7a-9a55-0c1e5a1d2f00";

Frame padded(Frame bytes, std::size_t size) {
  bytes.resize(size);
  return bytes;
}

VpnkitHandshake greeted() {
  auto handshake = VpnkitHandshake::create(kUuid);
  EXPECT_TRUE(handshake->feed(padded(FrameWriter().text("VMN3T").u32(0x16000000).frame, 49)));
  return std::move(handshake).value();
}

TEST(VpnkitHandshake, AsksForAnInterface) {
  auto handshake = VpnkitHandshake::create(kUuid);
  ASSERT_TRUE(handshake);
  const auto greeting = handshake->greeting();
  ASSERT_EQ(greeting.size(), 49U);
  EXPECT_EQ(Frame(greeting.begin(), greeting.begin() + 9), FrameWriter().text("VMN3T").u32(0x16000000).frame);
  ASSERT_EQ(handshake->wanted(), 49U);
  const auto command = handshake->feed(padded(FrameWriter().text("VMN3T").u32(0x16000000).frame, 49));
  ASSERT_TRUE(command);
  EXPECT_EQ(*command, padded(FrameWriter().u8(1).text(kUuid).frame, 41));
  ASSERT_EQ(handshake->wanted(), 258U);
  const auto nothing =
      handshake->feed(padded(FrameWriter().u8(1).u16(0xdc05).u16(0x0006).mac(test::kGuestMac).frame, 258));
  ASSERT_TRUE(nothing);
  EXPECT_TRUE(nothing->empty());
  EXPECT_EQ(handshake->wanted(), 0U);
  ASSERT_TRUE(handshake->interface());
  EXPECT_EQ(handshake->interface()->mtu, 1500);
  EXPECT_EQ(handshake->interface()->mac, test::kGuestMac);
}

TEST(VpnkitHandshake, RefusesOtherProtocols) {
  EXPECT_FALSE(VpnkitHandshake::create("short"));
  auto handshake = VpnkitHandshake::create(kUuid);
  EXPECT_FALSE(handshake->feed(padded(FrameWriter().text("HTTP/1.1 400").frame, 49)));
  EXPECT_FALSE(greeted().feed(padded(FrameWriter().u8(9).frame, 258)));
  EXPECT_FALSE(greeted().feed(padded(FrameWriter().u8(1).u16(0x0100).frame, 258)));
  EXPECT_FALSE(greeted().feed({}));
}

TEST(VpnkitHandshake, PassesOnWhyVpnkitRefuses) {
  auto handshake = greeted();
  const auto result = handshake.feed(padded(FrameWriter().u8(2).u8(9).text("too\x01many!-ignored").frame, 258));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message, "VPNKit refuses the connection: too?many!");
}

}  // namespace
}  // namespace tshyve::net
