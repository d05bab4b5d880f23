#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/result.h"
#include "base/state_stream.h"

namespace tshyve::pci {

/// Registers of the type 0 header (PCI 3.0, section 6.1).
enum Register : std::uint16_t {
  kVendorId = 0x00,
  kDeviceId = 0x02,
  kCommand = 0x04,
  kStatus = 0x06,
  kRevisionId = 0x08,
  kClassCode = 0x09,
  kBar0 = 0x10,
  kSubsystemVendorId = 0x2c,
  kSubsystemId = 0x2e,
  kCapabilitiesPointer = 0x34,
};
constexpr std::uint16_t kCommandMemorySpace = 1 << 1;
constexpr std::uint16_t kCommandBusMaster = 1 << 2;
constexpr std::uint16_t kCommandInterruptDisable = 1 << 10;
constexpr std::uint16_t kStatusCapabilities = 1 << 4;
constexpr std::uint8_t kCapabilityVendor = 0x09;
constexpr std::uint8_t kCapabilityMsix = 0x11;

/// What a function can be reached at: the part every function has, and the extended one that ours leave empty.
constexpr std::uint16_t kConventionalSize = 256;
constexpr std::uint16_t kConfigSize = 4096;

struct Identity {
  std::uint16_t vendor = 0;
  std::uint16_t device = 0;
  std::uint8_t revision = 0;
  /// Base class, sub-class, programming interface.
  std::uint32_t classCode = 0;
  std::uint16_t subsystemVendor = 0;
  std::uint16_t subsystem = 0;
};

/// The configuration registers of one function: which bytes there are and which bits the guest may change. What a
/// change means is its owner's affair. One thread at a time.
class ConfigSpace {
 public:
  explicit ConfigSpace(const Identity& identity);
  /// Makes BAR 0 a 32-bit, non-prefetchable memory range. @param size a power of two from 16 bytes on
  void addMemoryBar(std::uint32_t size);
  [[nodiscard]] std::uint32_t barAddress() const { return barSize_ == 0 ? 0 : get<std::uint32_t>(kBar0); }
  void setBarAddress(std::uint32_t address) { put(kBar0, address); }
  [[nodiscard]] std::uint32_t barSize() const { return barSize_; }
  /// True when the guest lets the function answer at its BAR.
  [[nodiscard]] bool memoryEnabled() const { return (get<std::uint16_t>(kCommand) & kCommandMemorySpace) != 0; }

  /// Appends a capability: its id, the link to the next and this body.
  /// @return the offset of the whole capability
  std::uint16_t addCapability(std::uint8_t id, std::span<const std::byte> body);
  /// Lets the guest change these bits.
  template <typename T>
  void allowWrites(std::uint16_t offset, T mask) {
    std::memcpy(&writable_[offset], &mask, sizeof mask);
  }

  /// Any offset and width; what lies beyond the conventional part reads as zero, beyond the whole as ones.
  void read(std::uint16_t offset, std::span<std::byte> out) const;
  /// Changes the bits the guest may change.
  void write(std::uint16_t offset, std::span<const std::byte> data);

  template <typename T>
  [[nodiscard]] T get(std::uint16_t offset) const {
    T value;
    std::memcpy(&value, &bytes_[offset], sizeof value);
    return value;
  }
  template <typename T>
  void put(std::uint16_t offset, T value) {
    std::memcpy(&bytes_[offset], &value, sizeof value);
  }

  void save(StateWriter& writer) const;
  /// Takes over only what a guest could have written.
  Result<void> restore(StateReader& reader);

 private:
  std::array<std::byte, kConventionalSize> bytes_{};
  std::array<std::byte, kConventionalSize> writable_{};
  std::uint32_t barSize_ = 0;
  std::uint16_t lastCapability_ = 0;
  std::uint16_t nextFree_ = 0x40;
};

}  // namespace tshyve::pci
