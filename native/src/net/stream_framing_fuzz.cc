#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "net/stream_framing.h"
#include "net/vpnkit_handshake.h"

namespace {

constexpr std::size_t kMaxFrame = 2000;

/// Cuts the stream in pieces as the first bytes say, and compares with cutting it at once.
void checkFraming(tshyve::net::LengthPrefix prefix, std::span<const std::byte> stream, std::size_t chunk) {
  tshyve::net::FrameBuffer buffer(prefix, kMaxFrame, 100);
  std::size_t framed = 0;
  std::size_t at = 0;
  while (at < stream.size()) {
    const auto space = buffer.space();
    if (space.empty()) std::abort();
    const std::size_t count = std::min({space.size(), chunk, stream.size() - at});
    std::memcpy(space.data(), stream.data() + at, count);
    buffer.filled(count);
    at += count;
    for (;;) {
      const auto frame = buffer.front();
      if (!frame) return;
      if (!*frame) break;
      const std::size_t length = (*frame)->size();
      framed += tshyve::net::prefixSize(prefix) + length;
      // Nothing invented, nothing torn: the frame is what the stream holds there.
      if (length > kMaxFrame || framed > at) std::abort();
      if (std::memcmp((*frame)->data(), stream.data() + framed - length, length) != 0) std::abort();
      buffer.pop();
    }
  }
}

void checkHandshake(std::span<const std::byte> stream) {
  auto handshake = tshyve::net::VpnkitHandshake::create("2b1b7e3c-7f4c-4b7a-9a55-0c1e5a1d2f00");
  if (!handshake) std::abort();
  while (handshake->wanted() > 0 && stream.size() >= handshake->wanted()) {
    const std::size_t wanted = handshake->wanted();
    if (!handshake->feed(stream.first(wanted))) return;
    stream = stream.subspan(wanted);
  }
  if (handshake->wanted() == 0 && !handshake->interface()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const auto stream = std::as_bytes(std::span(data + 2, size - 2));
  const std::size_t chunk = std::size_t{data[0]} + 1;
  checkFraming(data[1] % 2 == 0 ? tshyve::net::LengthPrefix::kBigEndian32 : tshyve::net::LengthPrefix::kLittleEndian16,
               stream, chunk);
  checkHandshake(stream);
  return 0;
}
