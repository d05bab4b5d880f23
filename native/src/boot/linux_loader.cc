#include "boot/linux_loader.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "boot/command_line.h"
#include "boot/kernel_image.h"
#include "boot/layout.h"
#include "boot/memory_map.h"
#include "boot/setup_header.h"

namespace tshyve::boot {
namespace {

constexpr std::uint64_t kPage = 0x1000;

struct [[gnu::packed]] E820Entry {
  std::uint64_t start;
  std::uint64_t size;
  std::uint32_t type;
};
static_assert(sizeof(E820Entry) == 20);

/// struct boot_params (Linux: arch/x86/include/uapi/asm/bootparam.h), as far as we fill it.
struct [[gnu::packed]] ZeroPage {
  std::uint8_t screenInfo[0x70];
  std::uint64_t acpiRootPointer;
  std::uint8_t unused1[0x1e8 - 0x78];
  std::uint8_t e820Entries;
  std::uint8_t unused2[kSetupHeaderOffset - 0x1e9];
  SetupHeader header;
  std::uint8_t unused3[0x2d0 - kSetupHeaderOffset - sizeof(SetupHeader)];
  E820Entry e820[128];
  std::uint8_t unused4[0x1000 - 0xcd0];
};
static_assert(sizeof(ZeroPage) == kPage);
static_assert(offsetof(ZeroPage, acpiRootPointer) == 0x70 && offsetof(ZeroPage, e820Entries) == 0x1e8);
static_assert(offsetof(ZeroPage, header) == 0x1f1 && offsetof(ZeroPage, e820) == 0x2d0);

// Xen: public/arch-x86/hvm/start_info.h.
constexpr std::uint32_t kStartInfoMagic = 0x336e'c578;
struct HvmStartInfo {
  std::uint32_t magic;
  std::uint32_t version;
  std::uint32_t flags;
  std::uint32_t moduleCount;
  std::uint64_t modules;
  std::uint64_t commandLine;
  std::uint64_t acpiRootPointer;
  std::uint64_t memoryMap;
  std::uint32_t memoryMapEntries;
  std::uint32_t reserved;
};
static_assert(sizeof(HvmStartInfo) == 56 && layout::kPvhStartInfo + sizeof(HvmStartInfo) <= layout::kPvhModules);
struct HvmModule {
  std::uint64_t address;
  std::uint64_t size;
  std::uint64_t commandLine;
  std::uint64_t reserved;
};
static_assert(sizeof(HvmModule) == 32 && layout::kPvhModules + sizeof(HvmModule) <= layout::kPvhMemoryMap);
struct HvmMemoryMapEntry {
  std::uint64_t start;
  std::uint64_t size;
  std::uint32_t type;
  std::uint32_t reserved;
};
static_assert(sizeof(HvmMemoryMapEntry) == 24);

/// Zero size: none.
struct Initrd {
  std::uint64_t address = 0;
  std::uint64_t size = 0;
};

Error noLowMemory() {
  return {ErrorCode::kInvalidArgument, "the machine has no memory below 1 MiB to start a kernel with"};
}

/// Says what a file is that is no kernel we can start.
Error notAKernel(const ImageSource& source, std::span<const std::byte> start) {
  const auto has = [&](std::size_t offset, std::string_view magic) {
    return start.size() >= offset + magic.size() && std::memcmp(start.data() + offset, magic.data(), magic.size()) == 0;
  };
  if (has(0x38, "ARMd")) return {ErrorCode::kUnsupported, source.name() + " is a kernel for arm64, not for x86_64"};
  if (has(0, "\x1f\x8b")) {
    return {ErrorCode::kUnsupported, source.name() + " is a gzip file: unpack it, or use the bzImage (vmlinuz)"};
  }
  return {ErrorCode::kUnsupported, source.name() + " is no Linux kernel (neither bzImage nor ELF vmlinux)"};
}

Result<KernelImage> loadKernel(const GuestMemory& memory, const ImageSource& source) {
  std::vector<std::byte> start(std::min<std::uint64_t>(source.size(), 1024));
  TSHYVE_CHECK(source.read(0, start));
  if (isBzImage(start)) return loadBzImage(memory, source);
  if (isElf(start)) return loadElf(memory, source);
  return notAKernel(source, start);
}

/// As high as it goes: what lies above the kernel is where kernels allocate first.
Result<Initrd> loadInitrd(const GuestMemory& memory, const KernelImage& kernel, const ImageSource& source) {
  const std::uint64_t limit = std::min(lowMemoryEnd(memory), kernel.initrdLastAddress + 1);
  const std::uint64_t size = source.size();
  const std::uint64_t address = size <= limit ? (limit - size) / kPage * kPage : 0;
  if (address < kernel.end) {
    return Error{ErrorCode::kInvalidArgument,
                 source.name() + " (" + std::to_string(size / layout::kMiB) +
                     " MiB) does not fit into memory beside the kernel: give the machine more memory"};
  }
  const auto target = memory.slice(address, size);
  if (!target) return noLowMemory();
  TSHYVE_CHECK(source.read(0, *target));
  return Initrd{address, size};
}

Result<void> writeCommandLine(const GuestMemory& memory, const KernelImage& kernel, const std::string& commandLine) {
  const std::uint64_t limit = std::min(kernel.commandLineLimit, layout::kCommandLine.size - 1);
  TSHYVE_TRY(const std::string line, guestCommandLine(commandLine, limit));
  const std::span bytes(line.c_str(), line.size() + 1);
  if (!memory.writeBytes(layout::kCommandLine.start, std::as_bytes(bytes))) return noLowMemory();
  return {};
}

Result<void> writeZeroPage(const GuestMemory& memory, const KernelImage& kernel, const Initrd& initrd,
                           std::uint64_t rsdp) {
  ZeroPage page{};
  const auto headerPlace = std::as_writable_bytes(std::span(&page, 1)).subspan(kSetupHeaderOffset);
  std::ranges::copy(kernel.setupHeader, headerPlace.begin());
  page.header.typeOfLoader = kLoaderUndefined;
  page.header.commandLinePointer = static_cast<std::uint32_t>(layout::kCommandLine.start);
  // Both lie below 3 GiB.
  page.header.ramdiskImage = static_cast<std::uint32_t>(initrd.address);
  page.header.ramdiskSize = static_cast<std::uint32_t>(initrd.size);
  page.acpiRootPointer = rsdp;
  for (const MemoryMapEntry& entry : memoryMap(memory)) {
    if (page.e820Entries == std::size(page.e820)) break;
    page.e820[page.e820Entries++] = {entry.start, entry.size, static_cast<std::uint32_t>(entry.type)};
  }
  if (!memory.write(layout::kZeroPage, page)) return noLowMemory();
  return {};
}

Result<void> writeStartInfo(const GuestMemory& memory, const Initrd& initrd, std::uint64_t rsdp) {
  std::vector<HvmMemoryMapEntry> map;
  for (const MemoryMapEntry& entry : memoryMap(memory)) {
    map.push_back({entry.start, entry.size, static_cast<std::uint32_t>(entry.type), 0});
  }
  const HvmModule module{initrd.address, initrd.size, 0, 0};
  const HvmStartInfo info{.magic = kStartInfoMagic,
                          .version = 1,
                          .flags = 0,
                          .moduleCount = initrd.size > 0 ? 1U : 0U,
                          .modules = initrd.size > 0 ? layout::kPvhModules : 0,
                          .commandLine = layout::kCommandLine.start,
                          .acpiRootPointer = rsdp,
                          .memoryMap = layout::kPvhMemoryMap,
                          .memoryMapEntries = static_cast<std::uint32_t>(map.size()),
                          .reserved = 0};
  if (!memory.writeBytes(layout::kPvhMemoryMap, std::as_bytes(std::span(map))) ||
      !memory.write(layout::kPvhModules, module) || !memory.write(layout::kPvhStartInfo, info)) {
    return noLowMemory();
  }
  return {};
}

}  // namespace

Result<LoadedKernel> loadLinux(const GuestMemory& memory, const ImageSource& kernelSource,
                               const ImageSource* initrdSource, const std::string& commandLine, std::uint64_t rsdp) {
  TSHYVE_TRY(const KernelImage kernel, loadKernel(memory, kernelSource));
  Initrd initrd;
  if (initrdSource != nullptr) {
    TSHYVE_TRY(initrd, loadInitrd(memory, kernel, *initrdSource));
  }
  TSHYVE_CHECK(writeCommandLine(memory, kernel, commandLine));
  if (kernel.mode == EntryMode::kPvh) {
    TSHYVE_CHECK(writeStartInfo(memory, initrd, rsdp));
    return LoadedKernel{EntryMode::kPvh, kernel.entry, layout::kPvhStartInfo};
  }
  TSHYVE_CHECK(writeZeroPage(memory, kernel, initrd, rsdp));
  return LoadedKernel{EntryMode::kLinux64, kernel.entry, layout::kZeroPage};
}

Result<LoadedKernel> loadLinux(const GuestMemory& memory, const LinuxBoot& boot, std::uint64_t rsdp) {
  TSHYVE_TRY(const FileImage kernel, FileImage::open(boot.kernel));
  if (boot.initrd.empty()) return loadLinux(memory, kernel, nullptr, boot.commandLine, rsdp);
  TSHYVE_TRY(const FileImage initrd, FileImage::open(boot.initrd));
  return loadLinux(memory, kernel, &initrd, boot.commandLine, rsdp);
}

}  // namespace tshyve::boot
