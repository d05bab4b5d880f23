#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <shared_mutex>
#include <span>

#include "base/result.h"

namespace tshyve {

/// Something that answers port I/O or memory-mapped I/O. Calls come from the vCPU threads, several at once: a device
/// guards its own state. Offset and width are the guest's choice: check both before indexing anything.
class BusDevice {
 public:
  virtual ~BusDevice() = default;
  /// @param offset from the start of the range, @param data 1, 2, 4 or 8 bytes to be filled
  virtual void read(std::uint64_t offset, std::span<std::byte> data) = 0;
  virtual void write(std::uint64_t offset, std::span<const std::byte> data) = 0;
};

/// An address space of ports or of memory-mapped registers.
class Bus {
 public:
  /// An overlap with another device is an error.
  Result<void> add(std::uint64_t address, std::uint64_t length, std::shared_ptr<BusDevice> device);
  void remove(std::uint64_t address);
  /// Reads where nobody answers give all ones, as real buses do. An access that crosses a device's end is nobody's.
  void read(std::uint64_t address, std::span<std::byte> data) const;
  void write(std::uint64_t address, std::span<const std::byte> data) const;

 private:
  struct Range {
    std::uint64_t length;
    std::shared_ptr<BusDevice> device;
  };
  [[nodiscard]] std::pair<std::shared_ptr<BusDevice>, std::uint64_t> find(std::uint64_t address,
                                                                          std::size_t width) const;
  mutable std::shared_mutex mutex_;
  std::map<std::uint64_t, Range> ranges_;
};

}  // namespace tshyve
