#include <cstdlib>
#include <span>

#include "vz/kernel_image.h"

/// A kernel comes out of an image that anybody may have made: whatever it is, what is unpacked boots or is refused.
extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace tshyve::vz;
  const auto file = std::as_bytes(std::span(data, size));
  const auto arm64 = unpackKernel(file, Processor::kArm64, "k");
  if (arm64) {
    const bool asItIs = arm64->empty();
    if (identifyKernel(asItIs ? file : std::span<const std::byte>(*arm64)) != KernelFormat::kArm64Image) std::abort();
  } else if (arm64.error().message.find("the kernel k ") == std::string::npos) {
    std::abort();
  }
  const auto x86 = unpackKernel(file, Processor::kX86, "k");
  if (x86 && (!x86->empty() || identifyKernel(file) != KernelFormat::kBzImage)) std::abort();
  return 0;
}
