#include "virtio/vsock/connect_line.h"

#include <array>
#include <charconv>
#include <cstdio>

namespace tshyve::virtio {
namespace {

/// A whole number and nothing else.
std::optional<std::uint32_t> parseNumber(std::string_view text, int base) {
  std::uint32_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value, base);
  if (error != std::errc{} || stopped != end) return std::nullopt;
  return value;
}

}  // namespace

std::optional<std::uint32_t> parseConnectCommand(std::string_view line) {
  constexpr std::string_view kCommand = "CONNECT ";
  if (!line.starts_with(kCommand)) return std::nullopt;
  return parseNumber(line.substr(kCommand.size()), 10);
}

std::optional<VsockAddress> parseVsockAddress(std::string_view line) {
  constexpr std::size_t kDigits = 8;
  if (line.size() != 2 * kDigits + 1 || line[kDigits] != '.') return std::nullopt;
  const auto cid = parseNumber(line.substr(0, kDigits), 16);
  const auto port = parseNumber(line.substr(kDigits + 1), 16);
  if (!cid || !port) return std::nullopt;
  return VsockAddress{*cid, *port};
}

std::string formatVsockAddress(const VsockAddress& address) {
  std::array<char, 20> text{};
  std::snprintf(text.data(), text.size(), "%08x.%08x", address.cid, address.port);
  return text.data();
}

}  // namespace tshyve::virtio
