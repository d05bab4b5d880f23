#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "base/result.h"
#include "base/state_stream.h"
#include "bus/bus.h"

namespace tshyve::pci {

/// Where the memory ranges of PCI functions lie; the root's. Any thread.
class BarWindow {
 public:
  virtual ~BarWindow() = default;
  /// Reserves a naturally aligned place for a BAR.
  /// @param size a power of two
  virtual Result<std::uint32_t> allocate(std::uint32_t size) = 0;
  /// Lets the device answer there. @return false when the range lies outside the window or is taken: the guest has
  /// moved the BAR to where it cannot work
  virtual bool map(std::uint32_t address, std::uint32_t size, std::shared_ptr<BusDevice> device) = 0;
  virtual void unmap(std::uint32_t address) = 0;
};

/// A PCI function on the root bus. Register accesses come from vCPU threads, several at once.
class PciDevice {
 public:
  virtual ~PciDevice() = default;
  /// For logs.
  [[nodiscard]] virtual std::string_view name() const = 0;

  /// @param offset and width lie within the 4096 bytes of configuration space
  virtual void readConfig(std::uint16_t offset, std::span<std::byte> out) = 0;
  virtual void writeConfig(std::uint16_t offset, std::span<const std::byte> data) = 0;

  /// Gets its place; once, before the guest runs. The window lives until `detach` returns.
  virtual Result<void> attach(BarWindow& window) = 0;
  /// Lets go of everything outside itself: no callback, interrupt or guest memory access comes from it afterwards.
  virtual void detach() = 0;

  /// Only while no vCPU runs: finishes what is under way and takes nothing new.
  virtual void pause() = 0;
  virtual void resume() = 0;
  /// While paused.
  virtual void save(StateWriter& writer) = 0;
  /// While paused, on a fresh device of the same configuration.
  virtual Result<void> restore(StateReader& reader) = 0;
};

}  // namespace tshyve::pci
