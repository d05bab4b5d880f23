#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "boot/image_source.h"
#include "boot/linux_loader.h"
#include "memory/guest_memory.h"

namespace tshyve::boot {

/// A kernel that lies in guest memory, and what it says about itself.
struct KernelImage {
  EntryMode mode;
  std::uint64_t entry;
  /// Memory up to here is the kernel's until it has set up its own memory management.
  std::uint64_t end;
  /// The initrd's last byte may be here at most.
  std::uint64_t initrdLastAddress;
  /// Bytes without the terminating NUL.
  std::uint64_t commandLineLimit;
  /// What belongs at 0x1f1 of the zero page; for kLinux64 only.
  std::vector<std::byte> setupHeader;
};

/// True for files that begin like one; the load functions then check all of it.
bool isBzImage(std::span<const std::byte> start);
bool isElf(std::span<const std::byte> start);

/// Linux: Documentation/arch/x86/boot.rst.
Result<KernelImage> loadBzImage(const GuestMemory& memory, const ImageSource& source);
/// An uncompressed vmlinux: through its PVH entry, else as a 64-bit Linux kernel.
Result<KernelImage> loadElf(const GuestMemory& memory, const ImageSource& source);

}  // namespace tshyve::boot
