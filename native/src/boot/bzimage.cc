#include <algorithm>
#include <array>
#include <cstring>

#include "boot/kernel_image.h"
#include "boot/layout.h"
#include "boot/memory_map.h"
#include "boot/setup_header.h"

namespace tshyve::boot {
namespace {

constexpr std::uint64_t kSectorBytes = 512;
/// The first protocol with extraLoadFlags.
constexpr std::uint16_t kMinVersion = 0x20c;
constexpr std::uint8_t kLoadedHigh = 1U << 0;
constexpr std::uint16_t kHas64BitEntry = 1U << 0;
/// From the start of the protected-mode part.
constexpr std::uint64_t kEntry64 = 0x200;

std::string mebibytes(std::uint64_t bytes) {
  return std::to_string((bytes + layout::kMiB - 1) / layout::kMiB) + " MiB";
}

Result<void> check(const SetupHeader& header, const std::string& name) {
  if (header.version < kMinVersion) {
    return Error{ErrorCode::kUnsupported,
                 name + " is a Linux kernel older than 3.8 (boot protocol before 2.12): use a newer one"};
  }
  if ((header.loadFlags & kLoadedHigh) == 0) {
    return Error{ErrorCode::kUnsupported, name + " is a zImage, which loads into low memory: use a bzImage"};
  }
  if ((header.extraLoadFlags & kHas64BitEntry) == 0) {
    return Error{ErrorCode::kUnsupported, name + " has no 64-bit entry point: use a kernel built for x86_64"};
  }
  if (header.preferredAddress < layout::kKernelStart || header.preferredAddress % 0x1000 != 0) {
    return Error{ErrorCode::kCorrupt, name + " wants to be loaded at an impossible address: the file is damaged"};
  }
  return {};
}

}  // namespace

bool isBzImage(std::span<const std::byte> start) {
  SetupHeader header;
  if (start.size() < kSetupHeaderOffset + sizeof header) return false;
  std::memcpy(&header, start.data() + kSetupHeaderOffset, sizeof header);
  return header.bootFlag == kBootFlag && header.magic == kSetupMagic;
}

Result<KernelImage> loadBzImage(const GuestMemory& memory, const ImageSource& source) {
  SetupHeader header;
  TSHYVE_CHECK(source.read(kSetupHeaderOffset, std::as_writable_bytes(std::span(&header, 1))));
  TSHYVE_CHECK(check(header, source.name()));

  // Zero means four, for kernels from before the field was.
  const std::uint64_t setupSectors = header.setupSectors == 0 ? 4 : header.setupSectors;
  const std::uint64_t bodyOffset = (setupSectors + 1) * kSectorBytes;
  const std::uint64_t bodySize = std::uint64_t{header.systemSize} * 16;
  if (bodySize <= kEntry64 || source.size() < bodyOffset || source.size() - bodyOffset < bodySize) {
    return Error{ErrorCode::kCorrupt, source.name() + " is cut short: its header speaks of " +
                                          std::to_string(bodyOffset + bodySize) + " bytes, it has " +
                                          std::to_string(source.size()) + "; download or copy it again"};
  }
  // Loading it lower would gain nothing: it unpacks itself to the preferred address and above anyway.
  const std::uint64_t load = header.preferredAddress;
  const std::uint64_t space = std::max<std::uint64_t>(header.initSize, bodySize);
  const std::uint64_t memoryEnd = lowMemoryEnd(memory);
  if (load > memoryEnd || space > memoryEnd - load) {
    const std::uint64_t needed = load > UINT64_MAX - space ? UINT64_MAX : load + space;
    return Error{ErrorCode::kInvalidArgument, source.name() + " needs " + mebibytes(needed) +
                                                  " of memory to start, the machine has " + mebibytes(memoryEnd) +
                                                  " below 3 GiB: give it more memory"};
  }
  const auto target = memory.slice(load, bodySize);
  if (!target) return Error{ErrorCode::kInvalidArgument, "the machine has no memory where the kernel loads"};
  TSHYVE_CHECK(source.read(bodyOffset, *target));

  // The header is as long as its jump instruction says, and belongs before what follows it in the zero page.
  const std::size_t headerEnd = std::min<std::size_t>(0x202 + (header.jump >> 8), kSetupHeaderEnd);
  KernelImage image{.mode = EntryMode::kLinux64,
                    .entry = load + kEntry64,
                    .end = load + space,
                    .initrdLastAddress = header.initrdAddressMax,
                    .commandLineLimit = header.commandLineSize,
                    .setupHeader = std::vector<std::byte>(headerEnd - kSetupHeaderOffset)};
  TSHYVE_CHECK(source.read(kSetupHeaderOffset, image.setupHeader));
  // A header that ends before the fields we checked is none.
  if (image.setupHeader.size() < sizeof header) {
    return Error{ErrorCode::kCorrupt, source.name() + " has a setup header that is too short: the file is damaged"};
  }
  return image;
}

}  // namespace tshyve::boot
