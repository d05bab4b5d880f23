#pragma once

#include <cstdint>

#include "base/result.h"
#include "boot/image_source.h"
#include "machine/machine_config.h"
#include "memory/guest_memory.h"

namespace tshyve::boot {

/// How the first vCPU enters a kernel.
enum class EntryMode {
  kLinux64,  ///< 64-bit boot protocol: long mode, RSI = zero page (Linux: Documentation/arch/x86/boot.rst)
  kPvh,      ///< 32-bit protected mode, EBX = hvm_start_info (Xen: docs/misc/pvh.pandoc)
};

struct LoadedKernel {
  EntryMode mode;
  /// First instruction.
  std::uint64_t entry;
  /// The zero page or the hvm_start_info.
  std::uint64_t parameters;
};

/// Reads a kernel and its initrd into fresh (all-zero) guest memory and writes the boot parameters beside them.
/// Takes a bzImage (boot protocol 2.12 or newer, 64-bit) or an ELF vmlinux, by its PVH entry if it has one. Adds
/// `reboot=a` to the command line unless that has a `reboot=`: reduced-hardware ACPI makes Linux try an EFI reset,
/// which hangs.
/// @param rsdp guest address of the ACPI root pointer
/// @return an error of kind kCorrupt or kUnsupported for files that are no such kernel, kInvalidArgument where memory
/// is too small or the command line too long
Result<LoadedKernel> loadLinux(const GuestMemory& memory, const LinuxBoot& boot, std::uint64_t rsdp);

/// The same from open images. @param initrd null for none
Result<LoadedKernel> loadLinux(const GuestMemory& memory, const ImageSource& kernel, const ImageSource* initrd,
                               const std::string& commandLine, std::uint64_t rsdp);

}  // namespace tshyve::boot
