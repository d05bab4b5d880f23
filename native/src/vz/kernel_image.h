#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "vz/host.h"

namespace tshyve::vz {

/// What a kernel file is.
enum class KernelFormat {
  kArm64Image,  ///< Linux: Documentation/arch/arm64/booting.rst
  kBzImage,     ///< Linux: Documentation/arch/x86/boot.rst
  kGzip,        ///< RFC 1952, what Debian and Ubuntu call vmlinuz on arm64
  kZboot,  ///< an EFI program that carries a compressed kernel (Linux: drivers/firmware/efi/libstub/zboot-header.S)
  kElf,
  kOtherCompression,
  kUnknown,
};
KernelFormat identifyKernel(std::span<const std::byte> file);

/// A kernel of this size unpacked is taken for an attack on the disk.
constexpr std::size_t kMaxKernelBytes = std::size_t{256} << 20;

/// The kernel that the framework's boot loader takes: on Apple silicon an uncompressed Image, unpacked if need be (it
/// hangs without a word on anything else), on Intel a bzImage.
/// @param name what messages call it
/// @return the bytes to boot; empty when the file itself will do. kCorrupt, kUnsupported name the file
Result<std::vector<std::byte>> unpackKernel(std::span<const std::byte> file, Processor processor,
                                            const std::string& name);

/// As `unpackKernel`, from file to file.
/// @param unpacked where the unpacked kernel goes, when there is need of one; replaced at once
/// @return the path to boot
Result<std::string> prepareKernel(const std::string& path, const std::string& unpacked, Processor processor);

}  // namespace tshyve::vz
