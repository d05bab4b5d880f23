#include "pci/root.h"

#include <algorithm>
#include <cstring>

#include "boot/layout.h"
#include "pci/config_space.h"

namespace tshyve::pci {
namespace {

/// A host bridge without any function of its own; Linux wants one to believe in the bus. The identity is that of the
/// generic PCI Express host of the virtual machine world (Red Hat), for which no guest has quirks.
constexpr Identity kHostBridgeIdentity{.vendor = 0x1b36,
                                       .device = 0x0008,
                                       .revision = 0,
                                       .classCode = 0x060000,
                                       .subsystemVendor = 0x1af4,
                                       .subsystem = 0x1100};

constexpr std::uint64_t kPortsSize = 8;
constexpr std::uint64_t kDataPort = 4;
/// Only bus 0 has devices; the rest of the ECAM range is answered with ones, as empty buses are.
constexpr std::uint64_t kBusSize = 1 << 20;

class HostBridge final : public PciDevice {
 public:
  [[nodiscard]] std::string_view name() const override { return "host-bridge"; }
  void readConfig(std::uint16_t offset, std::span<std::byte> out) override {
    const std::lock_guard lock(mutex_);
    config_.read(offset, out);
  }
  void writeConfig(std::uint16_t offset, std::span<const std::byte> data) override {
    const std::lock_guard lock(mutex_);
    config_.write(offset, data);
  }
  Result<void> attach(BarWindow&) override { return {}; }
  void detach() override {}
  void pause() override {}
  void resume() override {}
  void save(StateWriter& writer) override { config_.save(writer); }
  Result<void> restore(StateReader& reader) override { return config_.restore(reader); }

 private:
  std::mutex mutex_;
  ConfigSpace config_{kHostBridgeIdentity};
};

}  // namespace

/// CONFIG_ADDRESS and CONFIG_DATA.
class PciRoot::Ports final : public BusDevice {
 public:
  explicit Ports(const PciRoot& root) : root_(root) {}

  void read(std::uint64_t offset, std::span<std::byte> data) override {
    std::memset(data.data(), 0xff, data.size());
    const std::uint32_t address = this->address();
    if (offset == 0 && data.size() == sizeof address) {
      std::memcpy(data.data(), &address, sizeof address);
    } else if (selects(address, offset, data.size())) {
      root_.readConfig(slot(address), function(address), registerOf(address, offset), data);
    }
  }

  void write(std::uint64_t offset, std::span<const std::byte> data) override {
    if (offset == 0 && data.size() == sizeof address_) {
      const std::lock_guard lock(mutex_);
      std::memcpy(&address_, data.data(), sizeof address_);
      address_ &= kAddressBits;
      return;
    }
    const std::uint32_t address = this->address();
    if (selects(address, offset, data.size())) {
      root_.writeConfig(slot(address), function(address), registerOf(address, offset), data);
    }
  }

  [[nodiscard]] std::uint32_t address() const {
    const std::lock_guard lock(mutex_);
    return address_;
  }
  void setAddress(std::uint32_t address) {
    const std::lock_guard lock(mutex_);
    address_ = address & kAddressBits;
  }

 private:
  static constexpr std::uint32_t kEnable = 1U << 31;
  static constexpr std::uint32_t kAddressBits = 0x80fffffc;
  static bool selects(std::uint32_t address, std::uint64_t offset, std::size_t width) {
    const bool busZero = (address >> 16 & 0xff) == 0;
    return (address & kEnable) != 0 && busZero && offset >= kDataPort && width <= kPortsSize - offset;
  }
  static std::uint32_t slot(std::uint32_t address) { return address >> 11 & 0x1f; }
  static std::uint32_t function(std::uint32_t address) { return address >> 8 & 7; }
  static std::uint16_t registerOf(std::uint32_t address, std::uint64_t offset) {
    return static_cast<std::uint16_t>((address & 0xfc) + (offset - kDataPort));
  }

  const PciRoot& root_;
  mutable std::mutex mutex_;
  std::uint32_t address_ = 0;  // guarded by mutex_
};

/// Configuration space as memory: bits 15-19 are the slot, 12-14 the function.
class PciRoot::Ecam final : public BusDevice {
 public:
  explicit Ecam(const PciRoot& root) : root_(root) {}
  void read(std::uint64_t offset, std::span<std::byte> data) override {
    if (!within(offset, data.size())) {
      std::memset(data.data(), 0xff, data.size());
      return;
    }
    root_.readConfig(slot(offset), function(offset), static_cast<std::uint16_t>(offset % kConfigSize), data);
  }
  void write(std::uint64_t offset, std::span<const std::byte> data) override {
    if (!within(offset, data.size())) return;
    root_.writeConfig(slot(offset), function(offset), static_cast<std::uint16_t>(offset % kConfigSize), data);
  }

 private:
  static bool within(std::uint64_t offset, std::size_t width) {
    return offset < kBusSize && width <= kConfigSize - offset % kConfigSize;
  }
  static std::uint32_t slot(std::uint64_t offset) { return static_cast<std::uint32_t>(offset >> 15 & 0x1f); }
  static std::uint32_t function(std::uint64_t offset) { return static_cast<std::uint32_t>(offset >> 12 & 7); }
  const PciRoot& root_;
};

Result<std::unique_ptr<PciRoot>> PciRoot::create(Bus& ports, Bus& memory) {
  std::unique_ptr<PciRoot> root(new PciRoot(ports, memory));
  TSHYVE_CHECK(ports.add(layout::kPciConfigPort, kPortsSize, root->ports_));
  TSHYVE_CHECK(memory.add(layout::kPciEcam.start, layout::kPciEcam.size, root->ecam_));
  root->devices_[0] = std::make_shared<HostBridge>();
  return root;
}

PciRoot::PciRoot(Bus& ports, Bus& memory)
    : portBus_(ports),
      memoryBus_(memory),
      nextBar_(layout::kPciWindow32.start),
      ports_(std::make_shared<Ports>(*this)),
      ecam_(std::make_shared<Ecam>(*this)) {}

PciRoot::~PciRoot() {
  portBus_.remove(layout::kPciConfigPort);
  memoryBus_.remove(layout::kPciEcam.start);
  for (const auto& device : devices_) {
    if (device != nullptr) device->detach();
  }
}

Result<std::uint8_t> PciRoot::addDevice(std::shared_ptr<PciDevice> device) {
  const auto free = std::find(devices_.begin(), devices_.end(), nullptr);
  if (free == devices_.end()) {
    return Error{ErrorCode::kInvalidArgument, "a machine has room for " + std::to_string(kSlots - 1) + " devices, \"" +
                                                  std::string(device->name()) + "\" is one too many"};
  }
  TSHYVE_CHECK(device->attach(*this));
  *free = std::move(device);
  return static_cast<std::uint8_t>(free - devices_.begin());
}

void PciRoot::readConfig(std::uint32_t slot, std::uint32_t function, std::uint16_t offset,
                         std::span<std::byte> out) const {
  if (function == 0 && devices_[slot] != nullptr) {
    devices_[slot]->readConfig(offset, out);
  } else {
    std::memset(out.data(), 0xff, out.size());
  }
}

void PciRoot::writeConfig(std::uint32_t slot, std::uint32_t function, std::uint16_t offset,
                          std::span<const std::byte> data) const {
  if (function == 0 && devices_[slot] != nullptr) devices_[slot]->writeConfig(offset, data);
}

Result<std::uint32_t> PciRoot::allocate(std::uint32_t size) {
  const std::uint64_t address = (nextBar_ + size - 1) / size * size;
  if (address + size > layout::kPciWindow32.end()) {
    return Error{ErrorCode::kNoSpace, "the PCI devices do not fit their address window"};
  }
  nextBar_ = address + size;
  return static_cast<std::uint32_t>(address);
}

bool PciRoot::map(std::uint32_t address, std::uint32_t size, std::shared_ptr<BusDevice> device) {
  if (address < layout::kPciWindow32.start || address + std::uint64_t{size} > layout::kPciWindow32.end()) return false;
  return memoryBus_.add(address, size, std::move(device)).ok();
}

void PciRoot::unmap(std::uint32_t address) { memoryBus_.remove(address); }

void PciRoot::pause() {
  for (const auto& device : devices_) {
    if (device != nullptr) device->pause();
  }
}

void PciRoot::resume() {
  for (const auto& device : devices_) {
    if (device != nullptr) device->resume();
  }
}

void PciRoot::save(StateWriter& writer) {
  writer.section("pci-root", 1);
  writer.put(ports_->address());
  for (std::uint8_t slot = 0; slot < kSlots; slot++) {
    if (devices_[slot] == nullptr) continue;
    writer.section("pci-" + std::string(devices_[slot]->name()), 1);
    writer.put(slot);
    devices_[slot]->save(writer);
  }
}

Result<void> PciRoot::restore(StateReader& reader) {
  TSHYVE_TRY([[maybe_unused]] const std::uint32_t version, reader.section("pci-root", 1));
  std::uint32_t address = 0;
  TSHYVE_CHECK(reader.get(address));
  ports_->setAddress(address);
  for (std::uint8_t slot = 0; slot < kSlots; slot++) {
    if (devices_[slot] == nullptr) continue;
    TSHYVE_TRY([[maybe_unused]] const std::uint32_t device,
               reader.section("pci-" + std::string(devices_[slot]->name()), 1));
    std::uint8_t saved = 0;
    TSHYVE_CHECK(reader.get(saved));
    if (saved != slot) return Error{ErrorCode::kCorrupt, "the snapshot's devices sit in other slots"};
    TSHYVE_CHECK(devices_[slot]->restore(reader));
  }
  return {};
}

}  // namespace tshyve::pci
