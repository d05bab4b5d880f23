#include "virtio/testing/pci_guest.h"

#include <algorithm>
#include <cstdlib>

namespace tshyve::virtio::test {
namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

PciGuest::PciGuest(std::shared_ptr<Device> device, std::uint64_t memoryBytes, Log log)
    : memory(makeMemory(memoryBytes)), allocator(*memory), device_(*device) {
  auto made = pci::PciRoot::create(ports, memoryBus);
  require(made.ok());
  root = std::move(*made);
  auto created = PciTransport::create(services, *memory, std::move(device), std::move(log));
  require(created.ok());
  transport = std::move(*created);
  require(root->addDevice(transport).ok());
  barAddress = config<std::uint32_t>(pci::kBar0);
}

PciGuest::~PciGuest() { root.reset(); }

void PciGuest::negotiate(std::uint64_t features) {
  setStatus(0);
  setStatus(kStatusAcknowledge);
  setStatus(kStatusAcknowledge | kStatusDriver);
  for (std::uint32_t half = 0; half < 2; half++) {
    setBar(0x08, half);
    setBar(0x0c, static_cast<std::uint32_t>(features >> (half * 32)));
  }
  setStatus(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
}

void PciGuest::setUpQueue(std::uint16_t index, const QueueLayout& layout, std::uint16_t vector) {
  setBar(0x16, index);
  setBar(0x18, layout.size);
  setBar(0x1a, vector);
  const std::uint64_t addresses[] = {layout.descriptorTable, layout.availableRing, layout.usedRing};
  for (std::uint32_t field = 0; field < 3; field++) {
    setBar(0x20 + field * 8U, static_cast<std::uint32_t>(addresses[field]));
    setBar(0x24 + field * 8U, static_cast<std::uint32_t>(addresses[field] >> 32));
  }
  setBar(0x1c, std::uint16_t{1});
}

void PciGuest::enableMsix() {
  const std::uint8_t msix = capability(pci::kCapabilityMsix);
  const auto vectors = static_cast<std::uint32_t>((config<std::uint16_t>(msix + 2U) & 0x7ff) + 1);
  for (std::uint32_t index = 0; index < vectors; index++) {
    const std::uint64_t entry = pci_bar::kMsixTable + index * 16U;
    setBar(entry, std::uint32_t{0xfee00000});
    setBar(entry + 4, std::uint32_t{0});
    setBar(entry + 8, 0x4000 + index);
    setBar(entry + 12, std::uint32_t{0});
  }
  setConfig(msix + 2U, pci::MsixTable::kControlEnable);
}

void PciGuest::start(std::uint64_t features) {
  negotiate(features);
  enableMsix();
  setBar(0x10, std::uint16_t{0});
  queues.clear();
  const auto sizes = device_.queueSizes();
  for (std::uint16_t index = 0; index < sizes.size(); index++) {
    queues.push_back(std::make_unique<GuestQueue>(*memory, allocator, std::min<std::uint16_t>(sizes[index], 128)));
    setUpQueue(index, queues.back()->layout(), static_cast<std::uint16_t>(index + 1));
  }
  setStatus(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk);
}

std::uint8_t PciGuest::capability(std::uint8_t id, std::uint8_t type) const {
  std::uint8_t offset = config<std::uint8_t>(pci::kCapabilitiesPointer);
  for (int steps = 0; offset != 0 && steps < 48; steps++) {
    const bool typeFits = type == 0 || config<std::uint8_t>(offset + 3U) == type;
    if (config<std::uint8_t>(offset) == id && typeFits) return offset;
    offset = config<std::uint8_t>(offset + 1U);
  }
  return 0;
}

}  // namespace tshyve::virtio::test
