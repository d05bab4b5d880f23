#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/result.h"

namespace tshyve::net {

/// Destination, source, type (IEEE 802.3).
constexpr std::size_t kEthernetHeaderSize = 14;
/// With a VLAN tag.
constexpr std::size_t kTaggedEthernetHeaderSize = 18;
/// The largest frame any backend carries: a 64 KiB TCP segment with its headers.
constexpr std::size_t kMaxFrameSize = 65535 + kTaggedEthernetHeaderSize;

using MacAddress = std::array<std::uint8_t, 6>;

/// Parses `aa:bb:cc:dd:ee:ff`; refuses multicast and all-zero addresses, which no interface can have.
Result<MacAddress> parseMacAddress(const std::string& text);
std::string toString(const MacAddress& mac);

}  // namespace tshyve::net
