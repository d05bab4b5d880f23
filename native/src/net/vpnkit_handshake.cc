#include "net/vpnkit_handshake.h"

#include <algorithm>
#include <string_view>

namespace tshyve::net {
namespace {

constexpr std::string_view kMagic = "VMN3T";
constexpr std::uint32_t kProtocolVersion = 22;
constexpr std::size_t kCommitSize = 40;
constexpr std::size_t kGreetingSize = kMagic.size() + 4 + kCommitSize;
constexpr std::size_t kUuidSize = 36;
/// The command byte and the largest command's arguments (uuid and IPv4 address); shorter ones are padded.
constexpr std::size_t kCommandSize = 1 + kUuidSize + 4;
constexpr std::byte kCommandEthernet{1};
/// The type byte and the largest reply (length and 256 bytes of text).
constexpr std::size_t kReplySize = 1 + 1 + 256;
constexpr int kReplyInterface = 1;
constexpr int kReplyDisconnect = 2;

std::uint16_t little16(std::span<const std::byte> bytes) {
  return static_cast<std::uint16_t>(std::to_integer<unsigned>(bytes[0]) | std::to_integer<unsigned>(bytes[1]) << 8);
}

void append(std::vector<std::byte>& bytes, std::string_view text) {
  for (const char character : text) bytes.push_back(static_cast<std::byte>(character));
}

}  // namespace

Result<VpnkitHandshake> VpnkitHandshake::create(const std::string& uuid) {
  if (uuid.size() != kUuidSize) {
    return Error{ErrorCode::kInvalidArgument, "VPNKit needs a uuid of 36 characters, \"" + uuid + "\" is none"};
  }
  return VpnkitHandshake(uuid);
}

std::vector<std::byte> VpnkitHandshake::greeting() const {
  std::vector<std::byte> bytes;
  append(bytes, kMagic);
  for (unsigned shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<std::byte>(kProtocolVersion >> shift));
  // A version control id the peer logs; we have none of its kind.
  bytes.resize(kGreetingSize, std::byte{'0'});
  return bytes;
}

std::size_t VpnkitHandshake::wanted() const {
  switch (stage_) {
    case Stage::kGreeting:
      return kGreetingSize;
    case Stage::kReply:
      return kReplySize;
    case Stage::kDone:
      break;
  }
  return 0;
}

Result<std::vector<std::byte>> VpnkitHandshake::feed(std::span<const std::byte> bytes) {
  std::vector<std::byte> answer;
  if (bytes.size() != wanted()) return Error{ErrorCode::kState, "VPNKit handshake: wrong number of bytes"};
  if (stage_ == Stage::kGreeting) {
    const auto isMagic = [](std::byte byte, char expected) { return byte == static_cast<std::byte>(expected); };
    if (!std::equal(kMagic.begin(), kMagic.end(), bytes.begin(),
                    [&](char expected, std::byte byte) { return isMagic(byte, expected); })) {
      return Error{ErrorCode::kUnsupported, "the peer at the VPNKit socket does not speak VPNKit's protocol"};
    }
    answer.push_back(kCommandEthernet);
    append(answer, uuid_);
    answer.resize(kCommandSize);
    stage_ = Stage::kReply;
  } else if (stage_ == Stage::kReply) {
    TSHYVE_CHECK(parseReply(bytes));
    stage_ = Stage::kDone;
  }
  return answer;
}

Result<void> VpnkitHandshake::parseReply(std::span<const std::byte> bytes) {
  const int type = std::to_integer<int>(bytes[0]);
  const auto body = bytes.subspan(1);
  if (type == kReplyDisconnect) {
    const std::size_t length = std::min(std::to_integer<std::size_t>(body[0]), body.size() - 1);
    std::string text;
    for (const std::byte byte : body.subspan(1, length)) {
      const char character = static_cast<char>(byte);
      text += character >= ' ' && character <= '~' ? character : '?';
    }
    return Error{ErrorCode::kHost, "VPNKit refuses the connection: " + text};
  }
  if (type != kReplyInterface) {
    return Error{ErrorCode::kUnsupported, "VPNKit sent a reply of unknown type " + std::to_string(type)};
  }
  VpnkitInterface found{little16(body), little16(body.subspan(2)), {}};
  for (std::size_t index = 0; index < found.mac.size(); index++) {
    found.mac[index] = std::to_integer<std::uint8_t>(body[4 + index]);
  }
  if (found.mtu < 576) return Error{ErrorCode::kUnsupported, "VPNKit offers an MTU of " + std::to_string(found.mtu)};
  interface_ = found;
  return {};
}

}  // namespace tshyve::net
