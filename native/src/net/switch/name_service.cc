#include "net/switch/name_service.h"

#include <algorithm>
#include <cctype>

namespace tshyve::net {
namespace {

using Bytes = std::span<const std::byte>;

constexpr std::uint16_t kDnsPort = 53;
// RFC 1035, 4.1.1.
constexpr std::size_t kHeaderSize = 12;
constexpr std::uint16_t kResponse = 0x8000;
constexpr std::uint16_t kOpcodeMask = 0x7800;
constexpr std::uint16_t kTruncated = 0x0200;
constexpr std::uint16_t kRecursionDesired = 0x0100;
constexpr std::uint16_t kAuthoritative = 0x0400;
constexpr std::uint16_t kRecursionAvailable = 0x0080;
constexpr std::size_t kLongestName = 255;
constexpr std::uint8_t kLongestLabel = 63;
constexpr std::uint16_t kTypeA = 1;
constexpr std::uint16_t kTypeAny = 255;
constexpr std::uint16_t kClassInternet = 1;
/// A pointer to the name behind the header (4.1.4).
constexpr std::uint16_t kNamePointer = 0xc000 | kHeaderSize;
/// Machines come and go.
constexpr std::uint32_t kSecondsToLive = 5;

std::string lowerCase(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return text;
}

struct Question {
  std::string name;
  std::uint16_t type = 0;
  std::uint16_t queryClass = 0;
  std::size_t end = 0;  ///< offset of what follows it
};

/// @return nothing for a name with compression, which a question has no use for
std::optional<Question> parseQuestion(Bytes message) {
  Question question;
  std::size_t at = kHeaderSize;
  for (;;) {
    if (at >= message.size()) return std::nullopt;
    const auto length = std::to_integer<std::uint8_t>(message[at++]);
    if (length == 0) break;
    if (length > kLongestLabel || length > message.size() - at) return std::nullopt;
    if (!question.name.empty()) question.name += '.';
    for (std::size_t index = 0; index < length; index++) question.name += std::to_integer<char>(message[at + index]);
    if (question.name.size() > kLongestName) return std::nullopt;
    at += length;
  }
  if (message.size() - at < 4) return std::nullopt;
  question.type = readBig16(message, at);
  question.queryClass = readBig16(message, at + 2);
  question.end = at + 4;
  question.name = lowerCase(std::move(question.name));
  return question;
}

}  // namespace

void NameService::set(const std::string& name, const Ipv4Address& address) { names_[lowerCase(name)] = address; }

void NameService::remove(const std::string& name) { names_.erase(lowerCase(name)); }

std::optional<std::vector<std::byte>> NameService::answer(Bytes frame) const {
  const auto datagram = parseUdpFrame(frame);
  if (!datagram || datagram->destinationPort != kDnsPort || datagram->destination != address_) return std::nullopt;
  const Bytes message = datagram->payload;
  if (message.size() < kHeaderSize) return std::nullopt;
  const std::uint16_t flags = readBig16(message, 2);
  // A plain query with one question.
  if ((flags & (kResponse | kOpcodeMask | kTruncated)) != 0 || readBig16(message, 4) != 1) return std::nullopt;
  const auto question = parseQuestion(message);
  if (!question || question->queryClass != kClassInternet) return std::nullopt;
  const auto found = names_.find(question->name);
  if (found == names_.end()) return std::nullopt;

  // For other types (AAAA) the name exists and has nothing, so that the client does not go on searching.
  const bool hasAnswer = question->type == kTypeA || question->type == kTypeAny;
  std::vector<std::byte> reply;
  appendBig16(reply, readBig16(message, 0));
  appendBig16(reply, static_cast<std::uint16_t>(kResponse | kAuthoritative | kRecursionAvailable |
                                                (flags & kRecursionDesired)));
  appendBig16(reply, 1);
  appendBig16(reply, hasAnswer ? 1 : 0);
  appendBig16(reply, 0);
  appendBig16(reply, 0);
  const auto asked = message.subspan(kHeaderSize, question->end - kHeaderSize);
  reply.insert(reply.end(), asked.begin(), asked.end());
  if (hasAnswer) {
    appendBig16(reply, kNamePointer);
    appendBig16(reply, kTypeA);
    appendBig16(reply, kClassInternet);
    appendBig32(reply, kSecondsToLive);
    appendBig16(reply, 4);
    for (const std::uint8_t octet : found->second) reply.push_back(std::byte{octet});
  }
  UdpFrame out;
  out.sourceMac = mac_;
  out.destinationMac = datagram->sourceMac;
  out.source = address_;
  out.destination = datagram->source;
  out.sourcePort = kDnsPort;
  out.destinationPort = datagram->sourcePort;
  out.payload = reply;
  return buildUdpFrame(out);
}

}  // namespace tshyve::net
