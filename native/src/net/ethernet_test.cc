#include "net/ethernet.h"

#include <gtest/gtest.h>

#include "net/frame_queue.h"
#include "net/virtio_net_header.h"

namespace tshyve::net {
namespace {

TEST(MacAddress, IsParsedAndPrinted) {
  const auto mac = parseMacAddress("52:54:00:Ab:cd:0f");
  ASSERT_TRUE(mac);
  EXPECT_EQ(toString(*mac), "52:54:00:ab:cd:0f");
}

TEST(MacAddress, RefusesWhatNoInterfaceHas) {
  for (const char* text : {"", "52:54:00:ab:cd", "52:54:00:ab:cd:0f:11", "52-54-00-ab-cd-0f", "52:54:00:ab:cd:0g",
                           "01:54:00:ab:cd:0f", "00:00:00:00:00:00", "525400abcd0f"}) {
    EXPECT_FALSE(parseMacAddress(text)) << text;
  }
}

struct HeaderCase {
  const char* name;
  VirtioNetHeader header;
  bool plain;
  bool full;
};
class VirtioNetHeaderTest : public testing::TestWithParam<HeaderCase> {};
INSTANTIATE_TEST_SUITE_P(
    Headers, VirtioNetHeaderTest,
    testing::Values(HeaderCase{"Plain", {}, true, true}, HeaderCase{"Checksum", {1, 0, 0, 0, 34, 16, 0}, false, true},
                    HeaderCase{"ChecksumAtTheEnd", {1, 0, 0, 0, 82, 16, 0}, false, true},
                    HeaderCase{"ChecksumBeyondTheFrame", {1, 0, 0, 0, 83, 16, 0}, false, false},
                    HeaderCase{"ChecksumOverflow", {1, 0, 0, 0, 65535, 65535, 0}, false, false},
                    HeaderCase{"Segments", {1, 1, 54, 40, 34, 16, 0}, false, true},
                    HeaderCase{"SegmentsOfIpv6", {1, 4, 54, 40, 34, 16, 0}, false, true},
                    HeaderCase{"SegmentsWithEcn", {1, 0x81, 54, 40, 34, 16, 0}, false, true},
                    HeaderCase{"SegmentsWithoutChecksum", {0, 1, 54, 40, 34, 16, 0}, false, false},
                    HeaderCase{"SegmentsOfNoSize", {1, 1, 54, 0, 34, 16, 0}, false, false},
                    HeaderCase{"HeaderLongerThanTheFrame", {1, 1, 101, 40, 34, 16, 0}, false, false},
                    HeaderCase{"UdpFragments", {1, 3, 54, 40, 34, 16, 0}, false, false},
                    HeaderCase{"UnknownKind", {1, 77, 54, 40, 34, 16, 0}, false, false}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST_P(VirtioNetHeaderTest, IsCheckedAgainstFrameAndOffloads) {
  EXPECT_EQ(GetParam().header.validFor(100, {}), GetParam().plain);
  EXPECT_EQ(GetParam().header.validFor(100, {.checksum = true, .tso4 = true, .tso6 = true, .ecn = true}),
            GetParam().full);
}

TEST(FrameQueue, KeepsOrderInBoundedSpace) {
  FrameQueue queue(1000);
  unsigned in = 0;
  unsigned out = 0;
  for (int round = 0; round < 500; round++) {
    while (queue.push(std::vector<std::byte>(100, static_cast<std::byte>(in & 0xff)))) in++;
    EXPECT_EQ(queue.bytes(), 1000U);
    for (int index = 0; index < 7; index++) {
      ASSERT_EQ(queue.front().size(), 100U);
      ASSERT_EQ(queue.front()[99], static_cast<std::byte>(out++ & 0xff));
      queue.pop();
    }
  }
  EXPECT_FALSE(queue.empty());
}

}  // namespace
}  // namespace tshyve::net
