#pragma once

#include <cstdint>

#include "base/result.h"
#include "memory/guest_memory.h"

namespace tshyve::acpi {

struct TablesConfig {
  std::uint32_t cpus = 1;
  /// All RAM; decides where the 64-bit PCI window lies.
  std::uint64_t memoryBytes = 0;
  /// A CMOS clock answers at layout::kRtcPort.
  bool rtc = false;
};

/// Describes the machine to the guest: writes ACPI tables (reduced hardware, ACPI 6.5) and, for kernels booted with
/// acpi=off, an MP table into guest memory at the places layout.h gives.
/// @return guest address of the RSDP
Result<std::uint64_t> writeTables(const GuestMemory& memory, const TablesConfig& config);

}  // namespace tshyve::acpi
