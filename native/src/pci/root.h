#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "base/result.h"
#include "base/state_stream.h"
#include "bus/bus.h"
#include "pci/device.h"

namespace tshyve::pci {

/// A PCI Express root: bus 0 with a host bridge at slot 0 and one function a slot, reached through ports 0xcf8-0xcff
/// (PCI 3.0, section 3.2.2.3.2) and through memory (ECAM; PCI Express 3.0, section 7.2.2).
class PciRoot final : private BarWindow {
 public:
  static constexpr std::uint8_t kSlots = 32;

  /// Puts the two ways to configuration space on the buses, which must outlive the root.
  static Result<std::unique_ptr<PciRoot>> create(Bus& ports, Bus& memory);
  PciRoot(const PciRoot&) = delete;
  PciRoot& operator=(const PciRoot&) = delete;
  /// Detaches all devices and leaves the buses.
  ~PciRoot() override;

  /// Before the guest runs. @return the slot: the first free one
  Result<std::uint8_t> addDevice(std::shared_ptr<PciDevice> device);

  /// All devices, in the order of their slots. Only while no vCPU runs.
  void pause();
  void resume();
  void save(StateWriter& writer);
  /// Needs the same devices in the same slots. They stay paused until `resume`.
  Result<void> restore(StateReader& reader);

 private:
  class Ports;
  class Ecam;
  PciRoot(Bus& ports, Bus& memory);
  void readConfig(std::uint32_t slot, std::uint32_t function, std::uint16_t offset, std::span<std::byte> out) const;
  void writeConfig(std::uint32_t slot, std::uint32_t function, std::uint16_t offset,
                   std::span<const std::byte> data) const;
  Result<std::uint32_t> allocate(std::uint32_t size) override;
  bool map(std::uint32_t address, std::uint32_t size, std::shared_ptr<BusDevice> device) override;
  void unmap(std::uint32_t address) override;

  Bus& portBus_;
  Bus& memoryBus_;
  std::array<std::shared_ptr<PciDevice>, kSlots> devices_;  // unchanged once the guest runs
  std::uint64_t nextBar_;
  std::shared_ptr<Ports> ports_;
  std::shared_ptr<Ecam> ecam_;
};

}  // namespace tshyve::pci
