#include "boot/memory_map.h"

#include "boot/layout.h"

namespace tshyve::boot {

std::vector<MemoryMapEntry> memoryMap(const GuestMemory& memory) {
  std::vector<MemoryMapEntry> map{
      {0, layout::kReservedLowStart, MemoryType::kRam},
      {layout::kReservedLowStart, layout::kKernelStart - layout::kReservedLowStart, MemoryType::kReserved},
  };
  bool ecamAdded = false;
  const auto addEcam = [&] {
    if (!ecamAdded) map.push_back({layout::kPciEcam.start, layout::kPciEcam.size, MemoryType::kReserved});
    ecamAdded = true;
  };
  for (const GuestMemory::Region& region : memory.regions()) {
    const std::uint64_t start = std::max(region.guestAddress, layout::kKernelStart);
    const std::uint64_t end = region.guestAddress + region.bytes.size();
    // The map is ascending.
    if (start >= layout::kPciEcam.start) addEcam();
    if (start < end) map.push_back({start, end - start, MemoryType::kRam});
  }
  addEcam();
  return map;
}

std::uint64_t lowMemoryEnd(const GuestMemory& memory) {
  for (const GuestMemory::Region& region : memory.regions()) {
    if (region.guestAddress == 0) return region.bytes.size();
  }
  return 0;
}

}  // namespace tshyve::boot
