#include "virtio/pci_transport.h"

#include <sys/epoll.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace tshyve::virtio {
namespace {

using pci::ConfigSpace;
using pci::MsixTable;

constexpr std::uint16_t kVirtioVendor = 0x1af4;
/// Modern device ids: 0x1040 plus the device type (section 4.1.2.1).
constexpr std::uint16_t kModernDeviceBase = 0x1040;

/// Values of cfg_type (section 4.1.4).
enum CapabilityType : std::uint8_t {
  kCommonCapability = 1,
  kNotifyCapability = 2,
  kIsrCapability = 3,
  kDeviceCapability = 4,
  kPciAccessCapability = 5,
};

/// struct virtio_pci_cap behind the id and the link, with what two of the capabilities append.
struct CapabilityBody {
  std::uint8_t length = 16;
  std::uint8_t type = 0;
  std::uint8_t bar = 0;
  std::uint8_t id = 0;
  std::uint8_t padding[2] = {};
  std::uint32_t offset = 0;
  std::uint32_t size = 0;
  std::uint32_t extra = 0;
} __attribute__((packed));
static_assert(sizeof(CapabilityBody) == 18);
constexpr std::size_t kPlainBodySize = 14;

/// Offsets within the pci-cfg capability (section 4.1.4.9).
constexpr std::uint16_t kAccessBar = 4;
constexpr std::uint16_t kAccessOffset = 8;
constexpr std::uint16_t kAccessLength = 12;
constexpr std::uint16_t kAccessData = 16;

struct MsixBody {
  std::uint16_t control;
  std::uint32_t table;
  std::uint32_t pending;
} __attribute__((packed));
constexpr std::uint16_t kMsixControl = 2;

/// Registers of the common configuration (section 4.1.4.3).
enum Common : std::uint64_t {
  kDeviceFeatureSelect = 0x00,
  kDeviceFeature = 0x04,
  kDriverFeatureSelect = 0x08,
  kDriverFeature = 0x0c,
  kConfigMsixVector = 0x10,
  kNumQueues = 0x12,
  kDeviceStatus = 0x14,
  kConfigGeneration = 0x15,
  kQueueSelect = 0x16,
  kQueueSize = 0x18,
  kQueueMsixVector = 0x1a,
  kQueueEnable = 0x1c,
  kQueueNotifyOffset = 0x1e,
  kQueueDescriptors = 0x20,
  kQueueDriver = 0x28,
  kQueueDevice = 0x30,
  kCommonEnd = 0x38,
};
static_assert(kCommonEnd == pci_bar::kCommonSize);

/// Each signal of a kick counts by itself, so its counter need not be read: a system call less for every notification.
constexpr std::uint32_t kKickEvents = std::uint32_t{EPOLLIN} | std::uint32_t{EPOLLET};

constexpr std::uint8_t kIsrQueue = 1;
constexpr std::uint8_t kIsrConfig = 2;

/// What the guest sees as the kind of device when it has no virtio driver: base class and sub-class (PCI 3.0,
/// appendix D).
std::uint32_t classCode(DeviceType type) {
  switch (type) {
    case DeviceType::kNet:
      return 0x020000;
    case DeviceType::kBlock:
      return 0x010000;
    case DeviceType::kConsole:
      return 0x078000;
    case DeviceType::kVsock:
      return 0x028000;
    case DeviceType::kFileSystem:
      return 0x018000;
    case DeviceType::kEntropy:
    case DeviceType::kBalloon:
      return 0xff0000;
  }
  return 0xff0000;
}

pci::Identity identity(const Device& device) {
  const auto type = static_cast<std::uint16_t>(device.type());
  return {.vendor = kVirtioVendor,
          .device = static_cast<std::uint16_t>(kModernDeviceBase + type),
          .revision = 1,
          .classCode = classCode(device.type()),
          .subsystemVendor = kVirtioVendor,
          .subsystem = static_cast<std::uint16_t>(kModernDeviceBase + type)};
}

bool overlaps(std::uint16_t offset, std::size_t width, std::uint16_t start, std::size_t size) {
  return offset < start + size && start < offset + width;
}

/// The part of the register block at `start` that an access wants; zeros around it.
void copyWindow(std::uint64_t offset, std::span<std::byte> out, std::span<const std::byte> registers) {
  for (std::size_t index = 0; index < out.size(); index++) {
    out[index] = offset + index < registers.size() ? registers[offset + index] : std::byte{0};
  }
}

}  // namespace

Result<std::shared_ptr<PciTransport>> PciTransport::create(VmServices& services, const GuestMemory& memory,
                                                           std::shared_ptr<Device> device, Log log) {
  std::shared_ptr<PciTransport> transport(new PciTransport(services, memory, std::move(device), std::move(log)));
  for (const std::uint16_t size : transport->device_->queueSizes()) {
    TSHYVE_TRY(EventFd kick, EventFd::create());
    transport->queues_.push_back(std::make_unique<QueueSlot>(std::move(kick), size));
  }
  // One vector a queue and one for the configuration.
  const auto vectors = static_cast<std::uint16_t>(transport->queueCount() + 1);
  if (vectors * MsixTable::kEntrySize > pci_bar::kMsixTableSize) {
    return Error{ErrorCode::kInvalidArgument, "a virtio device has too many queues"};
  }
  TSHYVE_TRY(transport->msix_, MsixTable::create(services, vectors));
  transport->addCapabilities();
  return transport;
}

PciTransport::PciTransport(VmServices& services, const GuestMemory& memory, std::shared_ptr<Device> device, Log log)
    : services_(services),
      memory_(memory),
      device_(std::move(device)),
      log_(std::move(log)),
      config_(identity(*device_)) {
  config_.addMemoryBar(pci_bar::kSize);
}

PciTransport::~PciTransport() { detach(); }

void PciTransport::addCapabilities() {
  const auto add = [this](CapabilityBody body, std::size_t size) {
    body.length = static_cast<std::uint8_t>(size + 2);
    return config_.addCapability(pci::kCapabilityVendor, std::as_bytes(std::span(&body, 1)).first(size));
  };
  add({.type = kCommonCapability, .offset = pci_bar::kCommon, .size = pci_bar::kCommonSize}, kPlainBodySize);
  add({.type = kIsrCapability, .offset = pci_bar::kIsr, .size = pci_bar::kIsrSize}, kPlainBodySize);
  add({.type = kDeviceCapability, .offset = pci_bar::kDevice, .size = pci_bar::kDeviceSize}, kPlainBodySize);
  add({.type = kNotifyCapability,
       .offset = pci_bar::kNotify,
       .size = pci_bar::kNotifySize,
       .extra = pci_bar::kNotifyMultiplier},
      sizeof(CapabilityBody));
  pciAccessCapability_ = add({.type = kPciAccessCapability}, sizeof(CapabilityBody));
  config_.allowWrites<std::uint8_t>(pciAccessCapability_ + kAccessBar, 0xff);
  config_.allowWrites<std::uint32_t>(pciAccessCapability_ + kAccessOffset, 0xffffffff);
  config_.allowWrites<std::uint32_t>(pciAccessCapability_ + kAccessLength, 0xffffffff);
  config_.allowWrites<std::uint32_t>(pciAccessCapability_ + kAccessData, 0xffffffff);

  // Offsets are multiples of 8, the low three bits name the BAR: 0 (PCI 3.0, section 6.8.2.4).
  const MsixBody msix{.control = static_cast<std::uint16_t>(msix_->size() - 1),
                      .table = pci_bar::kMsixTable,
                      .pending = pci_bar::kMsixPending};
  msixCapability_ = config_.addCapability(pci::kCapabilityMsix, std::as_bytes(std::span(&msix, 1)));
  config_.allowWrites<std::uint16_t>(msixCapability_ + kMsixControl,
                                     MsixTable::kControlEnable | MsixTable::kControlMask);
}

void PciTransport::log(const std::string& line) const {
  if (log_) log_(std::string(name()) + ": " + line);
}

// --- Configuration space ---

void PciTransport::readConfig(std::uint16_t offset, std::span<std::byte> out) {
  const std::lock_guard lock(mutex_);
  if (overlaps(offset, out.size(), static_cast<std::uint16_t>(pciAccessCapability_ + kAccessData), 4)) {
    accessThroughConfig(offset, out, {});
  }
  config_.read(offset, out);
}

void PciTransport::writeConfig(std::uint16_t offset, std::span<const std::byte> data) {
  const std::lock_guard lock(mutex_);
  config_.write(offset, data);
  if (overlaps(offset, data.size(), pci::kCommand, 2) || overlaps(offset, data.size(), pci::kBar0, 4)) {
    updateBarMapping();
  }
  const auto msixControl = static_cast<std::uint16_t>(msixCapability_ + kMsixControl);
  if (overlaps(offset, data.size(), msixControl, 2)) {
    if (const auto set = msix_->setControl(config_.get<std::uint16_t>(msixControl)); !set) log(set.error().message);
  }
  if (overlaps(offset, data.size(), static_cast<std::uint16_t>(pciAccessCapability_ + kAccessData), 4)) {
    accessThroughConfig(offset, {}, data);
  }
}

/// The pci-cfg capability: the BAR for those who can reach configuration space only (firmware). The data register is
/// filled before a read of it, and what was written to it goes on to the BAR.
void PciTransport::accessThroughConfig(std::uint16_t offset, std::span<std::byte> out,
                                       std::span<const std::byte> data) {
  const std::uint16_t capability = pciAccessCapability_;
  const auto bar = config_.get<std::uint8_t>(capability + kAccessBar);
  const auto length = config_.get<std::uint32_t>(capability + kAccessLength);
  const auto target = config_.get<std::uint32_t>(capability + kAccessOffset);
  const bool valid = bar == 0 && (length == 1 || length == 2 || length == 4) && target % length == 0 &&
                     target < pci_bar::kSize && offset == capability + kAccessData;
  if (!valid) return;
  std::array<std::byte, 4> buffer{};
  const std::span<std::byte> value(buffer.data(), length);
  if (data.empty()) {
    if (out.empty()) return;
    readBarLocked(target, value);
    config_.put(capability + kAccessData, std::bit_cast<std::uint32_t>(buffer));
  } else {
    buffer = std::bit_cast<decltype(buffer)>(config_.get<std::uint32_t>(capability + kAccessData));
    writeBarLocked(target, value);
  }
}

Result<void> PciTransport::attach(pci::BarWindow& window) {
  const std::lock_guard lock(mutex_);
  TSHYVE_TRY(const std::uint32_t address, window.allocate(pci_bar::kSize));
  window_ = &window;
  config_.setBarAddress(address);
  // Placed and open, so that the guest need not: `_DSM` tells it to keep what it finds.
  config_.put(pci::kCommand, pci::kCommandMemorySpace);
  updateBarMapping();
  return {};
}

void PciTransport::detach() {
  const std::lock_guard lock(mutex_);
  stopAndReset();
  unmapBar();
  window_ = nullptr;
}

void PciTransport::updateBarMapping() {
  const std::uint32_t wanted = config_.memoryEnabled() ? config_.barAddress() : 0;
  if (wanted == mappedAt_ || window_ == nullptr) return;
  unmapBar();
  if (wanted == 0) return;
  if (window_->map(wanted, pci_bar::kSize, std::shared_ptr<BusDevice>(shared_from_this(), &bar_))) {
    mappedAt_ = wanted;
    if (active()) bindKicks();
  }
}

void PciTransport::unmapBar() {
  unbindKicks();
  if (mappedAt_ != 0) window_->unmap(std::exchange(mappedAt_, 0));
}

/// Lets guest notifications signal the queues' eventfds without a detour through us. Where that fails, the notification
/// arrives as an ordinary write to the BAR.
void PciTransport::bindKicks() {
  if (mappedAt_ == 0) return;
  for (std::uint32_t index = 0; index < queues_.size(); index++) {
    QueueSlot& slot = *queues_[index];
    if (!slot.enabled || slot.ioEvent != 0) continue;
    const std::uint64_t address = std::uint64_t{mappedAt_} + pci_bar::kNotify + index * pci_bar::kNotifyMultiplier;
    if (services_.addIoEvent(IoSpace::kMemory, address, slot.kick.fd())) slot.ioEvent = address;
  }
}

void PciTransport::unbindKicks() {
  for (const auto& slot : queues_) {
    if (slot->ioEvent != 0) {
      services_.removeIoEvent(IoSpace::kMemory, std::exchange(slot->ioEvent, 0), slot->kick.fd());
    }
  }
}

// --- BAR 0 ---

void PciTransport::readBar(std::uint64_t offset, std::span<std::byte> out) {
  const std::lock_guard lock(mutex_);
  readBarLocked(offset, out);
}

void PciTransport::writeBar(std::uint64_t offset, std::span<const std::byte> data) {
  const std::lock_guard lock(mutex_);
  writeBarLocked(offset, data);
}

void PciTransport::readBarLocked(std::uint64_t offset, std::span<std::byte> out) {
  using namespace pci_bar;
  std::memset(out.data(), 0, out.size());
  if (offset < kCommon + kCommonSize) {
    readCommon(offset - kCommon, out);
  } else if (offset == kIsr) {
    // Reading acknowledges (section 4.1.4.5).
    out[0] = static_cast<std::byte>(isr_.exchange(0));
  } else if (offset >= kDevice && offset < kDevice + kDeviceSize) {
    device_->loop().runSync([&] { device_->readConfig(static_cast<std::uint32_t>(offset - kDevice), out); });
  } else if (offset >= kMsixTable && offset < kMsixTable + kMsixTableSize) {
    msix_->readTable(offset - kMsixTable, out);
  } else if (offset >= kMsixPending && offset < kMsixPending + kMsixPendingSize) {
    msix_->readPending(offset - kMsixPending, out);
  }
}

void PciTransport::writeBarLocked(std::uint64_t offset, std::span<const std::byte> data) {
  using namespace pci_bar;
  if (offset < kCommon + kCommonSize) {
    writeCommon(offset - kCommon, data);
  } else if (offset >= kDevice && offset < kDevice + kDeviceSize) {
    if ((status_ & kStatusDriver) == 0) return;
    device_->loop().runSync([&] { device_->writeConfig(static_cast<std::uint32_t>(offset - kDevice), data); });
  } else if (offset >= kNotify && offset < kNotify + kNotifySize) {
    const std::uint64_t queue = (offset - kNotify) / kNotifyMultiplier;
    if (queue < queues_.size() && queues_[queue]->enabled && active()) queues_[queue]->kick.signal();
  } else if (offset >= kMsixTable && offset < kMsixTable + kMsixTableSize) {
    if (const auto set = msix_->writeTable(offset - kMsixTable, data); !set) log(set.error().message);
  }
}

std::uint64_t PciTransport::offeredFeatures() const { return device_->features() | kFeatureVersion1; }

PciTransport::QueueSlot* PciTransport::selectedQueue() const {
  return queueSelect_ < queues_.size() ? queues_[queueSelect_].get() : nullptr;
}

void PciTransport::readCommon(std::uint64_t offset, std::span<std::byte> out) const {
  std::array<std::byte, kCommonEnd> registers{};
  const auto put = [&](std::uint64_t position, auto value) {
    std::memcpy(registers.data() + position, &value, sizeof value);
  };
  const auto half = [](std::uint64_t features, std::uint32_t select) {
    return select < 2 ? static_cast<std::uint32_t>(features >> (select * 32)) : 0U;
  };
  put(kDeviceFeatureSelect, deviceFeatureSelect_);
  put(kDeviceFeature, half(offeredFeatures(), deviceFeatureSelect_));
  put(kDriverFeatureSelect, driverFeatureSelect_);
  put(kDriverFeature, half(driverFeatures_, driverFeatureSelect_));
  put(kConfigMsixVector, configVector_.load());
  put(kNumQueues, queueCount());
  put(kDeviceStatus, status_.load());
  put(kConfigGeneration, configGeneration_.load());
  put(kQueueSelect, queueSelect_);
  // A queue that does not exist has size 0 (section 4.1.4.3.1).
  if (const QueueSlot* slot = selectedQueue(); slot != nullptr) {
    put(kQueueSize, slot->layout.size);
    put(kQueueMsixVector, slot->vector.load());
    put(kQueueEnable, static_cast<std::uint16_t>(slot->enabled));
    put(kQueueNotifyOffset, queueSelect_);
    put(kQueueDescriptors, slot->layout.descriptorTable);
    put(kQueueDriver, slot->layout.availableRing);
    put(kQueueDevice, slot->layout.usedRing);
  } else {
    put(kQueueMsixVector, kNoVector);
  }
  copyWindow(offset, out, registers);
}

std::uint16_t PciTransport::checkedVector(std::uint64_t value) const {
  // The driver reads it back to learn whether it was taken (section 4.1.5.1.2.1).
  return value < msix_->size() ? static_cast<std::uint16_t>(value) : kNoVector;
}

void PciTransport::writeCommon(std::uint64_t offset, std::span<const std::byte> data) {
  std::uint64_t value = 0;
  if (data.size() > sizeof value) return;
  std::memcpy(&value, data.data(), data.size());
  // Registers are written as a whole, 64-bit ones also by halves (section 4.1.3.1).
  const auto is = [&](std::uint64_t position, std::size_t width) { return offset == position && data.size() == width; };
  if (is(kDeviceFeatureSelect, 4)) {
    deviceFeatureSelect_ = static_cast<std::uint32_t>(value);
  } else if (is(kDriverFeatureSelect, 4)) {
    driverFeatureSelect_ = static_cast<std::uint32_t>(value);
  } else if (is(kDriverFeature, 4)) {
    // Negotiation is over once FEATURES_OK is set.
    constexpr std::uint8_t kSettled = kStatusFeaturesOk | kStatusDriverOk | kStatusFailed;
    if ((status_ & kStatusDriver) == 0 || (status_ & kSettled) != 0 || driverFeatureSelect_ > 1) return;
    const std::uint32_t shift = driverFeatureSelect_ * 32;
    driverFeatures_ = (driverFeatures_ & ~(0xffffffffULL << shift)) | value << shift;
  } else if (is(kConfigMsixVector, 2)) {
    configVector_ = checkedVector(value);
  } else if (is(kDeviceStatus, 1)) {
    writeStatus(static_cast<std::uint8_t>(value));
  } else if (is(kQueueSelect, 2)) {
    queueSelect_ = static_cast<std::uint16_t>(value);
  } else if (offset >= kQueueSize) {
    writeQueueField(offset, value, data.size());
  }
}

void PciTransport::writeQueueField(std::uint64_t offset, std::uint64_t value, std::size_t width) {
  QueueSlot* slot = selectedQueue();
  if (slot == nullptr) return;
  if (offset == kQueueMsixVector && width == 2) {
    slot->vector = checkedVector(value);
    return;
  }
  // All else is fixed once the queue is enabled: the device holds on to it (section 4.1.4.3.2).
  const bool settingUp = (status_ & kStatusFeaturesOk) != 0 && (status_ & (kStatusDriverOk | kStatusFailed)) == 0;
  if (!settingUp || slot->enabled) return;
  const auto address = [&](std::uint64_t position, std::uint64_t& target) {
    if (offset == position && width == 8) target = value;
    if (offset == position && width == 4) target = (target & ~0xffffffffULL) | value;
    if (offset == position + 4 && width == 4) target = (target & 0xffffffffULL) | value << 32;
  };
  if (offset == kQueueSize && width == 2) {
    if (std::has_single_bit(value) && value <= slot->maxSize) slot->layout.size = static_cast<std::uint16_t>(value);
  } else if (offset == kQueueEnable && width == 2) {
    if (value == 1) slot->enabled = true;
  }
  address(kQueueDescriptors, slot->layout.descriptorTable);
  address(kQueueDriver, slot->layout.availableRing);
  address(kQueueDevice, slot->layout.usedRing);
}

// --- Life of the device ---

bool PciTransport::active() const { return activated_; }

void PciTransport::writeStatus(std::uint8_t value) {
  if (value == 0) {
    stopAndReset();
    return;
  }
  const std::uint8_t before = status_;
  // Bits are only ever added (section 2.1.1), each after the one it builds on; DEVICE_NEEDS_RESET is ours.
  if ((before & kStatusFailed) != 0 || (before & ~kStatusNeedsReset & ~value) != 0) return;
  const auto step = [&](std::uint8_t bit, std::uint8_t required) {
    if ((value & bit) == 0 || (status_ & bit) != 0 || (status_ & required) != required) return false;
    status_.fetch_or(bit);
    return true;
  };
  if ((value & kStatusFailed) != 0) {
    status_.fetch_or(kStatusFailed);
    log("the guest's driver has given up");
    return;
  }
  step(kStatusAcknowledge, 0);
  step(kStatusDriver, kStatusAcknowledge);
  // The bit stays clear when the driver wants what was not offered: it will read that back and give up.
  const bool acceptable = (driverFeatures_ & ~offeredFeatures()) == 0 && (driverFeatures_ & kFeatureVersion1) != 0;
  if (acceptable) step(kStatusFeaturesOk, kStatusDriver);
  if (step(kStatusDriverOk, kStatusFeaturesOk)) {
    if (const auto done = activate(false); !done) deviceBroken(done.error().message);
  }
}

Result<void> PciTransport::activate(bool restored) {
  std::vector<Queue*> queues;
  for (const auto& slot : queues_) {
    slot->external = false;
    if (slot->enabled && slot->queue == nullptr) {
      TSHYVE_TRY(slot->queue, Queue::create(memory_, slot->layout, driverFeatures_));
    }
    queues.push_back(slot->queue.get());
  }
  activated_ = true;
  Result<void> result;
  device_->loop().runSync([&] {
    if (restored) device_->pause();
    result = device_->activate(
        {.memory = memory_, .queues = std::move(queues), .features = driverFeatures_, .signals = *this});
    if (!result) return;
    for (std::uint16_t index = 0; index < queues_.size() && result; index++) {
      QueueSlot& slot = *queues_[index];
      if (slot.queue == nullptr || slot.external) continue;
      auto watch = device_->loop().watch(slot.kick.fd(), paused_ ? 0U : kKickEvents, [this, index](std::uint32_t) {
        queues_[index]->kick.drain();
        if ((status_ & kStatusNeedsReset) == 0) device_->notify(index);
      });
      if (!watch) {
        result = watch.error();
      } else {
        slot.watch = std::move(*watch);
      }
    }
  });
  TSHYVE_CHECK(result);
  bindKicks();
  if (!paused_) startQueues();
  return {};
}

/// The driver may have offered buffers before we listened.
void PciTransport::startQueues() {
  for (const auto& slot : queues_) {
    if (slot->queue != nullptr) slot->kick.signal();
  }
}

void PciTransport::stopAndReset() {
  unbindKicks();
  if (activated_) {
    device_->loop().runSync([&] {
      for (const auto& slot : queues_) slot->watch.reset();
      device_->reset();
    });
  }
  activated_ = false;
  for (const auto& slot : queues_) {
    slot->queue.reset();
    slot->kick.drain();
    slot->layout = {.size = slot->maxSize};
    slot->enabled = false;
    slot->vector = kNoVector;
    slot->external = false;
  }
  deviceFeatureSelect_ = 0;
  driverFeatureSelect_ = 0;
  driverFeatures_ = 0;
  queueSelect_ = 0;
  configVector_ = kNoVector;
  isr_ = 0;
  status_ = 0;
}

void PciTransport::pause() {
  const std::lock_guard lock(mutex_);
  if (std::exchange(paused_, true)) return;
  device_->loop().runSync([&] {
    for (const auto& slot : queues_) slot->watch.setEvents(0);
    device_->pause();
  });
}

void PciTransport::resume() {
  const std::lock_guard lock(mutex_);
  if (!std::exchange(paused_, false)) return;
  device_->loop().runSync([&] {
    device_->resume();
    for (const auto& slot : queues_) slot->watch.setEvents(kKickEvents);
  });
  if (!activated_) return;
  startQueues();
  // An interrupt that was on its way when the snapshot was taken may be lost: one too many does no harm.
  if (std::exchange(restored_, false)) {
    for (std::uint16_t index = 0; index < queueCount(); index++) queueInterrupt(index);
  }
}

// --- What the device calls, from its loop or elsewhere: no lock of ours ---

void PciTransport::queueInterrupt(std::uint16_t queue) {
  if (msix_->enabled()) {
    msix_->trigger(queues_[queue]->vector);
  } else {
    isr_.fetch_or(kIsrQueue);
  }
}

void PciTransport::configChanged() {
  configGeneration_++;
  if ((status_ & kStatusDriverOk) == 0) return;
  if (msix_->enabled()) {
    msix_->trigger(configVector_);
  } else {
    isr_.fetch_or(kIsrConfig);
  }
}

void PciTransport::deviceBroken(std::string_view why) {
  if ((status_.fetch_or(kStatusNeedsReset) & kStatusNeedsReset) != 0) return;
  log(std::string(why) + "; the device waits for its reset");
  configChanged();
}

int PciTransport::queueKickFd(std::uint16_t queue) {
  queues_[queue]->external = true;
  // Also when the device hands a queue over that it has served itself so far.
  queues_[queue]->watch.reset();
  return queues_[queue]->kick.fd();
}

int PciTransport::queueInterruptFd(std::uint16_t queue) { return msix_->irqFd(queues_[queue]->vector); }

// --- Snapshot ---

void PciTransport::save(StateWriter& writer) {
  const std::lock_guard lock(mutex_);
  config_.save(writer);
  msix_->save(writer);
  writer.put(offeredFeatures());
  writer.put(driverFeatures_);
  writer.put(deviceFeatureSelect_);
  writer.put(driverFeatureSelect_);
  writer.put(queueSelect_);
  writer.put(configVector_.load());
  writer.put(status_.load());
  writer.put(isr_.load());
  writer.put(configGeneration_.load());
  writer.put(queueCount());
  device_->loop().runSync([&] {
    for (const auto& slot : queues_) {
      const QueuePosition position = slot->queue == nullptr ? QueuePosition{} : slot->queue->position();
      writer.put(static_cast<std::uint8_t>(slot->enabled));
      writer.put(slot->layout.size);
      writer.put(slot->layout.descriptorTable);
      writer.put(slot->layout.availableRing);
      writer.put(slot->layout.usedRing);
      writer.put(slot->vector.load());
      writer.put(position.nextAvailable);
      writer.put(position.nextUsed);
    }
    device_->save(writer);
  });
}

Result<void> PciTransport::restore(StateReader& reader) {
  const std::lock_guard lock(mutex_);
  stopAndReset();
  paused_ = true;
  restored_ = true;
  TSHYVE_CHECK(restoreRegisters(reader));
  Result<void> result;
  device_->loop().runSync([&] { result = device_->restore(reader); });
  TSHYVE_CHECK(result);
  updateBarMapping();
  constexpr std::uint8_t kBroken = kStatusNeedsReset | kStatusFailed;
  if ((status_ & kStatusDriverOk) != 0 && (status_ & kBroken) == 0) return activate(true);
  device_->loop().runSync([&] { device_->pause(); });
  return {};
}

Result<void> PciTransport::restoreRegisters(StateReader& reader) {
  TSHYVE_CHECK(config_.restore(reader));
  TSHYVE_CHECK(msix_->setControl(config_.get<std::uint16_t>(msixCapability_ + kMsixControl)));
  TSHYVE_CHECK(msix_->restore(reader));
  std::uint64_t offered = 0;
  TSHYVE_CHECK(reader.get(offered));
  TSHYVE_CHECK(reader.get(driverFeatures_));
  TSHYVE_CHECK(reader.get(deviceFeatureSelect_));
  TSHYVE_CHECK(reader.get(driverFeatureSelect_));
  TSHYVE_CHECK(reader.get(queueSelect_));
  std::uint16_t configVector = 0;
  std::uint8_t status = 0;
  std::uint8_t isr = 0;
  std::uint8_t generation = 0;
  std::uint16_t queues = 0;
  TSHYVE_CHECK(reader.get(configVector));
  TSHYVE_CHECK(reader.get(status));
  TSHYVE_CHECK(reader.get(isr));
  TSHYVE_CHECK(reader.get(generation));
  TSHYVE_CHECK(reader.get(queues));
  // Less on offer here than there is fine as long as the guest's driver does not use it.
  const bool negotiated = (status & kStatusFeaturesOk) != 0;
  if (negotiated && (driverFeatures_ & ~offeredFeatures()) != 0) {
    return Error{ErrorCode::kUnsupported,
                 std::string(name()) + ": the snapshot's guest uses device features that this host does not have"};
  }
  const bool ordered =
      ((status & kStatusDriverOk) == 0 || negotiated) && (!negotiated || (driverFeatures_ & kFeatureVersion1) != 0);
  if (!ordered || queues != queues_.size()) {
    return Error{ErrorCode::kCorrupt, std::string(name()) + ": the snapshot's virtio registers contradict each other"};
  }
  configVector_ = checkedVector(configVector);
  isr_ = isr;
  configGeneration_ = generation;
  const bool running = (status & kStatusDriverOk) != 0;
  for (const auto& slot : queues_) {
    QueuePosition position;
    TSHYVE_CHECK(restoreQueue(*slot, reader, position));
    if (running && slot->enabled && (status & (kStatusNeedsReset | kStatusFailed)) == 0) {
      TSHYVE_TRY(slot->queue, Queue::create(memory_, slot->layout, driverFeatures_, position));
    }
  }
  status_ = status;
  return {};
}

Result<void> PciTransport::restoreQueue(QueueSlot& slot, StateReader& reader, QueuePosition& position) {
  std::uint8_t enabled = 0;
  std::uint16_t size = 0;
  std::uint16_t vector = 0;
  TSHYVE_CHECK(reader.get(enabled));
  TSHYVE_CHECK(reader.get(size));
  TSHYVE_CHECK(reader.get(slot.layout.descriptorTable));
  TSHYVE_CHECK(reader.get(slot.layout.availableRing));
  TSHYVE_CHECK(reader.get(slot.layout.usedRing));
  TSHYVE_CHECK(reader.get(vector));
  TSHYVE_CHECK(reader.get(position.nextAvailable));
  TSHYVE_CHECK(reader.get(position.nextUsed));
  if (!std::has_single_bit(size) || size > slot.maxSize) {
    return Error{ErrorCode::kCorrupt, std::string(name()) + ": the snapshot's queue has an impossible size"};
  }
  slot.layout.size = size;
  slot.enabled = enabled != 0;
  slot.vector = checkedVector(vector);
  return {};
}

}  // namespace tshyve::virtio
