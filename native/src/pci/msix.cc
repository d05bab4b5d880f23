#include "pci/msix.h"

#include <cstring>

namespace tshyve::pci {
namespace {

constexpr std::uint32_t kVectorMasked = 1;
constexpr std::size_t kVectorControl = 3;

}  // namespace

Result<std::unique_ptr<MsixTable>> MsixTable::create(VmServices& services, std::uint16_t vectors) {
  std::unique_ptr<MsixTable> table(new MsixTable());
  for (std::uint16_t index = 0; index < vectors; index++) {
    Entry entry;
    TSHYVE_TRY(entry.vector, services.createMsiVector());
    TSHYVE_CHECK(entry.vector->setMasked(true));
    table->entries_.push_back(std::move(entry));
  }
  return table;
}

void MsixTable::readTable(std::uint64_t offset, std::span<std::byte> out) const {
  for (std::size_t index = 0; index < out.size(); index++) {
    const std::uint64_t position = offset + index;
    const std::uint64_t entry = position / kEntrySize;
    out[index] =
        entry < entries_.size() ? std::as_bytes(std::span(entries_[entry].words))[position % kEntrySize] : std::byte{0};
  }
}

Result<void> MsixTable::writeTable(std::uint64_t offset, std::span<const std::byte> data) {
  if ((data.size() != 4 && data.size() != 8) || offset % data.size() != 0) return {};
  const std::uint64_t index = offset / kEntrySize;
  if (index >= entries_.size()) return {};
  Entry& entry = entries_[index];
  std::memcpy(std::as_writable_bytes(std::span(entry.words)).data() + offset % kEntrySize, data.data(), data.size());
  // The other bits are reserved and stay zero.
  entry.words[kVectorControl] &= kVectorMasked;
  return apply(entry);
}

void MsixTable::readPending(std::uint64_t offset, std::span<std::byte> out) const {
  for (std::size_t index = 0; index < out.size(); index++) {
    unsigned bits = 0;
    for (unsigned bit = 0; bit < 8; bit++) {
      const std::uint64_t vector = (offset + index) * 8 + bit;
      if (vector < entries_.size() && entries_[vector].vector->pending()) bits |= 1U << bit;
    }
    out[index] = static_cast<std::byte>(bits);
  }
}

Result<void> MsixTable::setControl(std::uint16_t control) {
  const bool enabled = (control & kControlEnable) != 0;
  const bool masked = (control & kControlMask) != 0;
  if (enabled == enabled_ && masked == functionMasked_) return {};
  enabled_ = enabled;
  functionMasked_ = masked;
  Result<void> result;
  for (Entry& entry : entries_) {
    if (Result<void> applied = apply(entry); !applied) result = std::move(applied);
  }
  return result;
}

Result<void> MsixTable::apply(Entry& entry) {
  const bool masked = !enabled_ || functionMasked_ || (entry.words[kVectorControl] & kVectorMasked) != 0;
  // Masked first and unmasked last, so that no interrupt takes a half-written address.
  if (masked) TSHYVE_CHECK(entry.vector->setMasked(true));
  const std::uint64_t address = entry.words[0] | std::uint64_t{entry.words[1]} << 32;
  TSHYVE_CHECK(entry.vector->configure(address, entry.words[2]));
  return masked ? Result<void>() : entry.vector->setMasked(false);
}

void MsixTable::trigger(std::uint16_t vector) {
  if (vector < entries_.size() && enabled_) entries_[vector].vector->trigger();
}

int MsixTable::irqFd(std::uint16_t vector) const {
  return vector < entries_.size() ? entries_[vector].vector->irqFd() : -1;
}

void MsixTable::save(StateWriter& writer) const {
  writer.put(size());
  for (const Entry& entry : entries_) {
    writer.put(entry.words);
    writer.put(static_cast<std::uint8_t>(entry.vector->pending()));
  }
}

Result<void> MsixTable::restore(StateReader& reader) {
  std::uint16_t size = 0;
  TSHYVE_CHECK(reader.get(size));
  if (size != entries_.size()) {
    return Error{ErrorCode::kCorrupt, "the snapshot's device has another number of interrupt vectors"};
  }
  for (Entry& entry : entries_) {
    TSHYVE_CHECK(reader.get(entry.words));
    std::uint8_t pending = 0;
    TSHYVE_CHECK(reader.get(pending));
    entry.words[kVectorControl] &= kVectorMasked;
    if (pending != 0) entry.vector->trigger();
    TSHYVE_CHECK(apply(entry));
  }
  return {};
}

}  // namespace tshyve::pci
