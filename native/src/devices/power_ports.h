#pragma once

#include <functional>
#include <span>

#include "bus/bus.h"

namespace tshyve {

/// Ports by which a guest ends itself: ACPI's sleep and reset register, and the keyboard controller's reset command.

enum class PowerRequest { kShutdown, kReset };
/// Called on a vCPU thread.
using PowerRequested = std::function<void(PowerRequest)>;

/// Sleep control, sleep status and reset in one byte (ACPI 6.5, 4.8.3.7 and 4.8.3.6); see layout::kAcpiPort.
class AcpiPowerPort final : public BusDevice {
 public:
  explicit AcpiPowerPort(PowerRequested requested) : requested_(std::move(requested)) {}
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  PowerRequested requested_;
};

/// The status and command port of a PC's keyboard controller, without a keyboard. Always ready, so that a guest that
/// waits before it sends the reset command does not wait long.
class KeyboardResetPort final : public BusDevice {
 public:
  explicit KeyboardResetPort(PowerRequested requested) : requested_(std::move(requested)) {}
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  PowerRequested requested_;
};

}  // namespace tshyve
