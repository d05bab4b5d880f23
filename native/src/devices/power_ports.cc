#include "devices/power_ports.h"

#include <algorithm>

#include "boot/layout.h"

namespace tshyve {
namespace {

constexpr std::byte kPulseResetLine{0xfe};

void readZero(std::span<std::byte> data) { std::fill(data.begin(), data.end(), std::byte{0}); }

}  // namespace

void AcpiPowerPort::read(std::uint64_t, std::span<std::byte> data) { readZero(data); }

void AcpiPowerPort::write(std::uint64_t offset, std::span<const std::byte> data) {
  if (offset != 0 || data.size() != 1) return;
  // Linux clears the wake status (0x80) before it sets sleep type and enable; only the latter is a request.
  const auto value = std::to_integer<std::uint8_t>(data[0]);
  if (value == layout::kAcpiPowerOffValue) requested_(PowerRequest::kShutdown);
  if (value == layout::kAcpiResetValue) requested_(PowerRequest::kReset);
}

void KeyboardResetPort::read(std::uint64_t, std::span<std::byte> data) { readZero(data); }

void KeyboardResetPort::write(std::uint64_t offset, std::span<const std::byte> data) {
  if (offset == 0 && data.size() == 1 && data[0] == kPulseResetLine) requested_(PowerRequest::kReset);
}

}  // namespace tshyve
