#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/state_stream.h"
#include "vmm/vm_services.h"

namespace tshyve::pci {

/// A function's message-signalled interrupts: the table, the pending bits and the two switches of the capability (PCI
/// 3.0, section 6.8.2). One thread at a time but for `trigger`.
class MsixTable {
 public:
  static constexpr std::size_t kEntrySize = 16;
  /// Bits of the capability's message control register.
  static constexpr std::uint16_t kControlEnable = 1 << 15;
  static constexpr std::uint16_t kControlMask = 1 << 14;

  /// @param vectors from 1 to 2048
  static Result<std::unique_ptr<MsixTable>> create(VmServices& services, std::uint16_t vectors);

  [[nodiscard]] std::uint16_t size() const { return static_cast<std::uint16_t>(entries_.size()); }
  /// The guest's view of the table: any offset and width; beyond the end reads as zero.
  void readTable(std::uint64_t offset, std::span<std::byte> out) const;
  /// Aligned accesses of 4 and 8 bytes change something, others nothing (section 6.8.2).
  Result<void> writeTable(std::uint64_t offset, std::span<const std::byte> data);
  /// The pending bit array.
  void readPending(std::uint64_t offset, std::span<std::byte> out) const;
  /// What the guest wrote to the message control register.
  Result<void> setControl(std::uint16_t control);

  /// Any thread. Nothing happens for a vector there is not, or while MSI-X is off.
  void trigger(std::uint16_t vector);
  [[nodiscard]] bool enabled() const { return enabled_; }
  /// The eventfd to be signalled in place of `trigger`, -1 for a vector there is not.
  [[nodiscard]] int irqFd(std::uint16_t vector) const;

  void save(StateWriter& writer) const;
  Result<void> restore(StateReader& reader);

 private:
  struct Entry {
    /// Address low and high, data, vector control.
    std::array<std::uint32_t, 4> words{0, 0, 0, 1};
    std::unique_ptr<MsiVector> vector;
  };
  MsixTable() = default;
  Result<void> apply(Entry& entry);

  std::vector<Entry> entries_;
  std::atomic<bool> enabled_{false};
  bool functionMasked_ = false;
};

}  // namespace tshyve::pci
