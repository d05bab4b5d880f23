#include "pci/config_space.h"

#include <algorithm>

namespace tshyve::pci {

ConfigSpace::ConfigSpace(const Identity& identity) {
  put(kVendorId, identity.vendor);
  put(kDeviceId, identity.device);
  put(kRevisionId, identity.revision);
  put(kClassCode, static_cast<std::uint8_t>(identity.classCode));
  put(kClassCode + 1, static_cast<std::uint16_t>(identity.classCode >> 8));
  put(kSubsystemVendorId, identity.subsystemVendor);
  put(kSubsystemId, identity.subsystem);
  allowWrites<std::uint16_t>(kCommand, kCommandMemorySpace | kCommandBusMaster | kCommandInterruptDisable);
}

void ConfigSpace::addMemoryBar(std::uint32_t size) {
  barSize_ = size;
  // The guest learns the size by writing ones: the bits below it stay zero (section 6.2.5.1).
  allowWrites<std::uint32_t>(kBar0, ~(size - 1));
}

std::uint16_t ConfigSpace::addCapability(std::uint8_t id, std::span<const std::byte> body) {
  const std::uint16_t offset = nextFree_;
  put(offset, id);
  std::memcpy(&bytes_[offset + 2U], body.data(), body.size());
  put(lastCapability_ == 0 ? kCapabilitiesPointer : lastCapability_ + 1, static_cast<std::uint8_t>(offset));
  put(kStatus, static_cast<std::uint16_t>(get<std::uint16_t>(kStatus) | kStatusCapabilities));
  lastCapability_ = offset;
  nextFree_ = static_cast<std::uint16_t>((offset + 2U + body.size() + 3U) & ~std::size_t{3});
  return offset;
}

void ConfigSpace::read(std::uint16_t offset, std::span<std::byte> out) const {
  for (std::size_t index = 0; index < out.size(); index++) {
    const std::size_t position = offset + index;
    if (position < kConventionalSize) {
      out[index] = bytes_[position];
    } else {
      out[index] = position < kConfigSize ? std::byte{0} : std::byte{0xff};
    }
  }
}

void ConfigSpace::write(std::uint16_t offset, std::span<const std::byte> data) {
  for (std::size_t index = 0; index < data.size() && offset + index < kConventionalSize; index++) {
    std::byte& target = bytes_[offset + index];
    const std::byte mask = writable_[offset + index];
    target = (target & ~mask) | (data[index] & mask);
  }
}

void ConfigSpace::save(StateWriter& writer) const { writer.putBytes(bytes_); }

Result<void> ConfigSpace::restore(StateReader& reader) {
  TSHYVE_TRY(const auto bytes, reader.getBytes());
  if (bytes.size() != kConventionalSize) {
    return Error{ErrorCode::kCorrupt, "the snapshot's PCI registers have a wrong size"};
  }
  for (std::size_t index = 0; index < bytes.size(); index++) {
    if (((bytes[index] ^ bytes_[index]) & ~writable_[index]) != std::byte{0}) {
      return Error{ErrorCode::kCorrupt, "the snapshot's PCI device is another than this machine's"};
    }
  }
  write(0, bytes);
  return {};
}

}  // namespace tshyve::pci
