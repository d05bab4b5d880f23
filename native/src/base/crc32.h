#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace tshyve {

/// The CRC of Ethernet, zlib and many files (ISO 3309; reflected polynomial 0xedb88320).
inline std::uint32_t crc32(std::span<const std::byte> bytes) {
  static constexpr auto table = [] {
    std::array<std::uint32_t, 256> values{};
    for (std::uint32_t index = 0; index < values.size(); index++) {
      std::uint32_t value = index;
      for (int bit = 0; bit < 8; bit++) value = (value >> 1) ^ ((value & 1) != 0 ? 0xedb88320U : 0U);
      values[index] = value;
    }
    return values;
  }();
  std::uint32_t crc = 0xffffffff;
  for (const std::byte byte : bytes) crc = (crc >> 8) ^ table[(crc ^ std::to_integer<std::uint32_t>(byte)) & 0xff];
  return ~crc;
}

}  // namespace tshyve
