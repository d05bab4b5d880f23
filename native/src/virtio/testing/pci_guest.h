#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "bus/bus.h"
#include "pci/root.h"
#include "virtio/pci_transport.h"
#include "virtio/testing/fake_vm_services.h"
#include "virtio/testing/guest_driver.h"

namespace tshyve::virtio::test {

/// A PCI bus with one virtio function in slot 1, and what a guest's driver does with it: through the buses, as vCPUs
/// do.
class PciGuest {
 public:
  explicit PciGuest(std::shared_ptr<Device> device, std::uint64_t memoryBytes = 16 << 20, Log log = {});
  ~PciGuest();

  template <typename T>
  [[nodiscard]] T config(std::uint32_t offset) const {
    return load<T>(kFunction + offset);
  }
  template <typename T>
  void setConfig(std::uint32_t offset, T value) {
    store(kFunction + offset, value);
  }
  template <typename T>
  [[nodiscard]] T bar(std::uint64_t offset) const {
    return load<T>(barAddress + offset);
  }
  /// A write that an ioeventfd may take, as KVM has it.
  template <typename T>
  void setBar(std::uint64_t offset, T value) {
    if (!services.writeIoEvent(IoSpace::kMemory, barAddress + offset)) store(barAddress + offset, value);
  }
  [[nodiscard]] std::uint8_t status() const { return bar<std::uint8_t>(0x14); }
  void setStatus(int value) { setBar(0x14, static_cast<std::uint8_t>(value)); }
  /// Up to FEATURES_OK.
  void negotiate(std::uint64_t features);
  /// Vector = queue number; 0xffff for none.
  void setUpQueue(std::uint16_t index, const QueueLayout& layout, std::uint16_t vector);
  void enableMsix();
  /// All of it, with rings of its own; MSI-X vector n + 1 for queue n, 0 for the configuration.
  void start(std::uint64_t features);
  void kick(std::uint16_t queue) { setBar<std::uint16_t>(pci_bar::kNotify + queue * 4U, queue); }
  /// Offset of a capability of this id, 0 if there is none. @param type cfg_type of a vendor capability
  [[nodiscard]] std::uint8_t capability(std::uint8_t id, std::uint8_t type = 0) const;
  [[nodiscard]] FakeMsiVector& vector(std::uint16_t index) { return *services.vectors.at(index); }
  [[nodiscard]] GuestQueue& queue(std::uint16_t index) { return *queues.at(index); }

  FakeVmServices services;
  std::unique_ptr<GuestMemory> memory;
  GuestAllocator allocator;
  Bus ports;
  Bus memoryBus;
  std::unique_ptr<pci::PciRoot> root;
  std::shared_ptr<PciTransport> transport;
  std::uint64_t barAddress = 0;
  std::vector<std::unique_ptr<GuestQueue>> queues;

 private:
  static constexpr std::uint64_t kFunction = 0xe0000000 + (1 << 15);
  template <typename T>
  [[nodiscard]] T load(std::uint64_t address) const {
    T value{};
    memoryBus.read(address, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  template <typename T>
  void store(std::uint64_t address, T value) const {
    memoryBus.write(address, std::as_bytes(std::span(&value, 1)));
  }
  Device& device_;
};

}  // namespace tshyve::virtio::test
