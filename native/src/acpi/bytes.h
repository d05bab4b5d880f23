#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

namespace tshyve::acpi {

using Bytes = std::vector<std::byte>;

/// Appends a value in its little-endian layout.
template <typename T>
requires std::is_trivially_copyable_v<T>
void append(Bytes& bytes, const T& value) {
  const auto raw = std::as_bytes(std::span(&value, 1));
  bytes.insert(bytes.end(), raw.begin(), raw.end());
}

inline void append(Bytes& bytes, const Bytes& more) { bytes.insert(bytes.end(), more.begin(), more.end()); }

/// What must be added to these bytes to make their sum zero, as the checksums of ACPI, MP and SMBIOS tables are.
inline std::uint8_t checksum(std::span<const std::byte> bytes) {
  std::uint8_t sum = 0;
  for (const std::byte value : bytes) sum = static_cast<std::uint8_t>(sum + std::to_integer<std::uint8_t>(value));
  return static_cast<std::uint8_t>(0x100 - sum);
}

}  // namespace tshyve::acpi
