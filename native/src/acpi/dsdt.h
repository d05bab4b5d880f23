#pragma once

#include "acpi/bytes.h"
#include "acpi/tables.h"

namespace tshyve::acpi {

/// The machine's devices and what they use, as the AML of the DSDT without its table header.
Bytes dsdtBody(const TablesConfig& config);

}  // namespace tshyve::acpi
