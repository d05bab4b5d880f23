#include "net/ethernet.h"

#include <cstdio>

namespace tshyve::net {
namespace {

int hexDigit(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
  return -1;
}

}  // namespace

Result<MacAddress> parseMacAddress(const std::string& text) {
  const Error bad{ErrorCode::kInvalidArgument,
                  "\"" + text + "\" is not a MAC address of an interface; write one like 52:54:00:12:34:56"};
  if (text.size() != 17) return bad;
  MacAddress mac{};
  for (std::size_t index = 0; index < mac.size(); index++) {
    const int high = hexDigit(text[index * 3]);
    const int low = hexDigit(text[index * 3 + 1]);
    if (high < 0 || low < 0 || (index > 0 && text[index * 3 - 1] != ':')) return bad;
    mac[index] = static_cast<std::uint8_t>(high * 16 + low);
  }
  if ((mac[0] & 1) != 0 || mac == MacAddress{}) return bad;
  return mac;
}

std::string toString(const MacAddress& mac) {
  std::array<char, 18> text{};
  std::snprintf(text.data(), text.size(), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
                mac[5]);
  return text.data();
}

}  // namespace tshyve::net
