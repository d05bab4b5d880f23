#pragma once

#include <cstddef>
#include <cstdint>

namespace tshyve::boot {

/// The setup header of a bzImage, at offset 0x1f1 of the file and of the zero page (Linux:
/// Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").
struct [[gnu::packed]] SetupHeader {
  std::uint8_t setupSectors;
  std::uint16_t rootFlags;
  std::uint32_t systemSize;  ///< of the protected-mode part, in 16-byte units
  std::uint16_t ramSize;
  std::uint16_t videoMode;
  std::uint16_t rootDevice;
  std::uint16_t bootFlag;
  std::uint16_t jump;  ///< its second byte, offset 0x201, says where the header ends
  std::uint32_t magic;
  std::uint16_t version;
  std::uint32_t realModeSwitch;
  std::uint16_t startSystemSegment;
  std::uint16_t kernelVersion;
  std::uint8_t typeOfLoader;
  std::uint8_t loadFlags;
  std::uint16_t setupMoveSize;
  std::uint32_t code32Start;
  std::uint32_t ramdiskImage;
  std::uint32_t ramdiskSize;
  std::uint32_t bootSectorBytes;
  std::uint16_t heapEnd;
  std::uint8_t extendedLoaderVersion;
  std::uint8_t extendedLoaderType;
  std::uint32_t commandLinePointer;
  std::uint32_t initrdAddressMax;
  std::uint32_t kernelAlignment;
  std::uint8_t relocatable;
  std::uint8_t minAlignment;
  std::uint16_t extraLoadFlags;
  std::uint32_t commandLineSize;
  std::uint32_t hardwareSubarchitecture;
  std::uint64_t hardwareSubarchitectureData;
  std::uint32_t payloadOffset;
  std::uint32_t payloadLength;
  std::uint64_t setupData;
  std::uint64_t preferredAddress;
  std::uint32_t initSize;
  std::uint32_t handoverOffset;
};
constexpr std::size_t kSetupHeaderOffset = 0x1f1;
static_assert(kSetupHeaderOffset + offsetof(SetupHeader, bootFlag) == 0x1fe);
static_assert(kSetupHeaderOffset + offsetof(SetupHeader, magic) == 0x202);
static_assert(kSetupHeaderOffset + offsetof(SetupHeader, commandLinePointer) == 0x228);
static_assert(kSetupHeaderOffset + offsetof(SetupHeader, extraLoadFlags) == 0x236);
static_assert(kSetupHeaderOffset + offsetof(SetupHeader, preferredAddress) == 0x258);
static_assert(kSetupHeaderOffset + sizeof(SetupHeader) == 0x268);

constexpr std::uint16_t kBootFlag = 0xaa55;
constexpr std::uint32_t kSetupMagic = 0x5372'6448;  ///< "HdrS"
/// An unregistered boot loader.
constexpr std::uint8_t kLoaderUndefined = 0xff;
/// Where the header's place in the zero page ends (struct boot_params: edd_mbr_sig_buffer begins).
constexpr std::size_t kSetupHeaderEnd = 0x290;

}  // namespace tshyve::boot
