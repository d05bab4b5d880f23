#pragma once

#include <cstdint>
#include <vector>

#include "memory/guest_memory.h"

namespace tshyve::boot {

/// Types of the BIOS E820 map and PVH's alike (ACPI 6.5, table 15.4).
enum class MemoryType : std::uint32_t { kRam = 1, kReserved = 2 };

struct MemoryMapEntry {
  std::uint64_t start;
  std::uint64_t size;
  MemoryType type;
};

/// What the guest is told about its address space: RAM, and what it must leave alone.
std::vector<MemoryMapEntry> memoryMap(const GuestMemory& memory);

/// End of the RAM that begins at address 0.
std::uint64_t lowMemoryEnd(const GuestMemory& memory);

}  // namespace tshyve::boot
