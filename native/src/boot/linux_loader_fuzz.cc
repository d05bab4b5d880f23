#include <cstdlib>

#include "boot/layout.h"
#include "boot/linux_loader.h"

// A kernel file nobody vouches for: magic numbers lead the fuzzer to the bzImage and the ELF parser.
// The first byte picks the machine: how much memory, whether there is an initrd.
extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace tshyve;
  if (size == 0) return 0;
  const bool withInitrd = (data[0] & 1) != 0;
  const std::uint64_t memoryBytes = (data[0] & 2) != 0 ? 32 * layout::kMiB : 2 * layout::kMiB;
  const auto bytes = std::as_bytes(std::span(data + 1, size - 1));
  auto memory = GuestMemory::create(layout::memoryExtents(memoryBytes), GuestMemory::Backing::kPrivate);
  if (!memory) std::abort();
  const boot::BytesImage kernel("kernel", bytes);
  const boot::BytesImage initrd("initrd", bytes);
  const auto loaded = boot::loadLinux(**memory, kernel, withInitrd ? &initrd : nullptr, "quiet", 0xe0000);
  if (!loaded) {
    if (loaded.error().message.empty()) std::abort();
    return 0;
  }
  // What was accepted can be entered, and nothing was written over the parameters.
  if (!(*memory)->slice(loaded->entry, 1) || loaded->entry < layout::kKernelStart) std::abort();
  if ((*memory)->read<char>(layout::kCommandLine.start) != 'r') std::abort();
  return 0;
}
