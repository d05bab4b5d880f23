#include "net/stream_framing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "net/testing/frames.h"

namespace tshyve::net {
namespace {

using test::Frame;

Frame stream(LengthPrefix prefix, const std::vector<Frame>& frames) {
  Frame bytes;
  for (const Frame& frame : frames) {
    const auto encoded = encodePrefix(prefix, frame.size());
    bytes.insert(bytes.end(), encoded.begin(), encoded.begin() + static_cast<std::ptrdiff_t>(prefixSize(prefix)));
    bytes.insert(bytes.end(), frame.begin(), frame.end());
  }
  return bytes;
}

Frame filled(std::size_t size, unsigned value) { return Frame(size, static_cast<std::byte>(value)); }

TEST(EncodePrefix, WritesTheLength) {
  using Bytes = std::array<std::byte, 4>;
  EXPECT_EQ(encodePrefix(LengthPrefix::kBigEndian32, 0x010203),
            (Bytes{std::byte{0}, std::byte{1}, std::byte{2}, std::byte{3}}));
  EXPECT_EQ(encodePrefix(LengthPrefix::kLittleEndian16, 0x0203),
            (Bytes{std::byte{3}, std::byte{2}, std::byte{0}, std::byte{0}}));
}

class FrameBufferTest : public testing::TestWithParam<std::tuple<LengthPrefix, std::size_t>> {};
INSTANTIATE_TEST_SUITE_P(Chunks, FrameBufferTest,
                         testing::Combine(testing::Values(LengthPrefix::kBigEndian32, LengthPrefix::kLittleEndian16),
                                          testing::Values(1, 2, 3, 7, 1000, 100000)));

TEST_P(FrameBufferTest, CutsAStreamIntoFramesHoweverItComes) {
  const auto [prefix, chunk] = GetParam();
  std::vector<Frame> frames;
  // Enough to go round the buffer several times.
  for (unsigned index = 0; index < 150; index++) frames.push_back(filled(index * 37 % 2500, index & 0xff));
  const Frame bytes = stream(prefix, frames);
  FrameBuffer buffer(prefix, 2500, 1000);
  std::vector<Frame> found;
  std::size_t at = 0;
  while (at < bytes.size()) {
    const auto space = buffer.space();
    ASSERT_FALSE(space.empty());
    const std::size_t count = std::min({space.size(), chunk, bytes.size() - at});
    std::memcpy(space.data(), bytes.data() + at, count);
    buffer.filled(count);
    at += count;
    for (;;) {
      const auto frame = buffer.front();
      ASSERT_TRUE(frame);
      if (!*frame) break;
      found.emplace_back((*frame)->begin(), (*frame)->end());
      buffer.pop();
    }
  }
  EXPECT_EQ(found, frames);
}

TEST(FrameBuffer, RefusesALengthBeyondTheMaximum) {
  FrameBuffer buffer(LengthPrefix::kBigEndian32, 1514);
  const Frame bytes = stream(LengthPrefix::kBigEndian32, {filled(1515, 0)});
  std::memcpy(buffer.space().data(), bytes.data(), 4);
  buffer.filled(4);
  EXPECT_FALSE(buffer.front());
  buffer.clear();
  EXPECT_TRUE(buffer.front());
}

}  // namespace
}  // namespace tshyve::net
