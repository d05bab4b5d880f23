#pragma once

#include <cstdint>

#include "acpi/bytes.h"

namespace tshyve::acpi {

/// The MP floating pointer with its configuration table behind it (MultiProcessor Specification 1.4, chapter 4): the
/// processors and interrupt lines for kernels that run with acpi=off.
/// @param address where it will lie: below 4 GiB, 16-byte aligned
Bytes mpTable(std::uint32_t cpus, std::uint64_t address);

}  // namespace tshyve::acpi
