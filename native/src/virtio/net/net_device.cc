#include "virtio/net/net_device.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "net/iovec_copy.h"

namespace tshyve::virtio {
namespace {

using net::FrameBackend;
using net::Offloads;
using net::VirtioNetHeader;

// Feature bits, Virtual I/O Device 1.2, section 5.1.3.
constexpr std::uint64_t kFeatureChecksum = 1ULL << 0;
constexpr std::uint64_t kFeatureGuestChecksum = 1ULL << 1;
constexpr std::uint64_t kFeatureMtu = 1ULL << 3;
constexpr std::uint64_t kFeatureMac = 1ULL << 5;
constexpr std::uint64_t kFeatureGuestTso4 = 1ULL << 7;
constexpr std::uint64_t kFeatureGuestTso6 = 1ULL << 8;
constexpr std::uint64_t kFeatureGuestEcn = 1ULL << 9;
constexpr std::uint64_t kFeatureHostTso4 = 1ULL << 11;
constexpr std::uint64_t kFeatureHostTso6 = 1ULL << 12;
constexpr std::uint64_t kFeatureHostEcn = 1ULL << 13;
constexpr std::uint64_t kFeatureMergeableBuffers = 1ULL << 15;
constexpr std::uint64_t kFeatureStatus = 1ULL << 16;

constexpr std::uint16_t kReceiveQueue = 0;
constexpr std::uint16_t kSendQueue = 1;
/// Linux refills a receive ring when it is half empty; half of this in its smallest buffers still holds a 64 KiB frame.
constexpr std::array<std::uint16_t, 2> kQueueSizes = {256, 256};

/// Section 5.1.4.
struct Config {
  net::MacAddress mac;
  std::uint16_t status;
  std::uint16_t maxQueuePairs;
  std::uint16_t mtu;
};
static_assert(sizeof(Config) == 12);
constexpr std::uint16_t kStatusLinkUp = 1;

/// Frames one direction gets before the other has its turn.
constexpr std::size_t kBudget = 256;
constexpr std::size_t kSendBatch = 64;
/// readv(2) takes 1024; a back end adds some of its own.
constexpr std::size_t kMaxParts = 1000;
/// A guest with a fixed address never sees a DHCPACK, and may not send TCP either.
constexpr std::chrono::seconds kHandOverWithoutAddress{30};
constexpr std::chrono::milliseconds kHandOverSoon{1};
constexpr std::uint32_t kStateVersion = 1;

std::uint64_t offeredFeatures(const FrameBackend::Properties& properties) {
  const Offloads& offloads = properties.offloads;
  std::uint64_t features =
      kFeatureMac | kFeatureStatus | kFeatureMergeableBuffers | kFeatureIndirectDescriptors | kFeatureEventIndex;
  if (properties.mtu != 0) features |= kFeatureMtu;
  if (offloads.checksum) features |= kFeatureChecksum;
  if (offloads.checksum || properties.checksumsValid) features |= kFeatureGuestChecksum;
  if (offloads.tso4) features |= kFeatureHostTso4 | kFeatureGuestTso4;
  if (offloads.tso6) features |= kFeatureHostTso6 | kFeatureGuestTso6;
  if (offloads.ecn) features |= kFeatureHostEcn | kFeatureGuestEcn;
  return features;
}

bool has(std::uint64_t features, std::uint64_t feature) { return (features & feature) != 0; }

}  // namespace

NetDevice::NetDevice(EventLoop& loop, std::string name, const net::MacAddress& mac,
                     std::unique_ptr<FrameBackend> backend, Callbacks callbacks)
    : loop_(loop),
      name_(std::move(name)),
      mac_(backend->properties().mac.value_or(mac)),
      backend_(std::move(backend)),
      callbacks_(std::move(callbacks)),
      features_(offeredFeatures(backend_->properties())),
      snoop_(mac_, [this](const net::DhcpSnoop::Lease& lease) { addressSeen(lease); }),
      bounce_(net::kMaxFrameSize),
      sendChains_(kSendBatch),
      frameParts_(kSendBatch) {
  backend_->setListener(this);
  if (backend_->properties().vhostFd < 0) return;
  // Now: once the machine runs, its threads open no devices.
  auto opened = VhostNet::open(loop_);
  if (opened) {
    vhost_ = std::move(*opened);
  } else if (opened.error().code != ErrorCode::kNotFound) {
    // Not having it is no fault; not being allowed to may be one.
    log("frames go through this process: " + opened.error().message);
  }
}

std::unique_ptr<NetDevice> NetDevice::create(EventLoop& loop, std::string name, const net::MacAddress& mac,
                                             std::unique_ptr<FrameBackend> backend, Callbacks callbacks) {
  return std::unique_ptr<NetDevice>(
      new NetDevice(loop, std::move(name), mac, std::move(backend), std::move(callbacks)));
}

Result<std::unique_ptr<NetDevice>> NetDevice::create(EventLoop& loop, std::string name, const NetworkConfig& config,
                                                     Callbacks callbacks) {
  TSHYVE_TRY(const net::MacAddress mac, net::parseMacAddress(config.mac));
  Result<std::unique_ptr<NetDevice>> result = Error{};
  loop.runSync([&] {
    auto backend = net::createBackend(loop, config, callbacks.log);
    if (!backend) {
      result = std::move(backend).error();
    } else {
      result = create(loop, std::move(name), mac, std::move(*backend), std::move(callbacks));
    }
  });
  return result;
}

NetDevice::~NetDevice() {
  loop_.runSync([&] {
    reset();
    alive_.reset();
    vhostTimer_.reset();
    // On its loop, as all of its calls.
    backend_->setListener(nullptr);
    const_cast<std::unique_ptr<FrameBackend>&>(backend_).reset();
  });
}

std::span<const std::uint16_t> NetDevice::queueSizes() const { return kQueueSizes; }

void NetDevice::readConfig(std::uint32_t offset, std::span<std::byte> data) {
  const Config config{mac_, backend_->linkUp() ? kStatusLinkUp : std::uint16_t{0}, 1, backend_->properties().mtu};
  const auto bytes = std::as_bytes(std::span(&config, 1));
  std::fill(data.begin(), data.end(), std::byte{0});
  if (offset < bytes.size()) {
    const std::size_t count = std::min(data.size(), bytes.size() - offset);
    std::memcpy(data.data(), bytes.data() + offset, count);
  }
}

Result<void> NetDevice::activate(Activation activation) {
  if (activation.queues.size() != kQueueSizes.size() || activation.queues[kReceiveQueue] == nullptr ||
      activation.queues[kSendQueue] == nullptr) {
    return Error{ErrorCode::kGuest, "the driver did not set up both queues of the network interface"};
  }
  const std::uint64_t features = activation.features;
  const bool checksum = has(features, kFeatureGuestChecksum);
  const Offloads receive = {.checksum = checksum && backend_->properties().offloads.checksum,
                            .tso4 = checksum && has(features, kFeatureGuestTso4),
                            .tso6 = checksum && has(features, kFeatureGuestTso6),
                            .ecn = checksum && has(features, kFeatureGuestEcn)};
  TSHYVE_CHECK(backend_->setReceiveOffloads(receive));
  const Offloads send = {.checksum = has(features, kFeatureChecksum),
                         .tso4 = has(features, kFeatureHostTso4),
                         .tso6 = has(features, kFeatureHostTso6),
                         .ecn = has(features, kFeatureHostEcn)};
  const std::uint16_t mtu = backend_->properties().mtu;
  const bool anyLength = receive.tso4 || receive.tso6 || mtu == 0;
  active_.emplace(
      Active{.memory = activation.memory,
             .receive = *activation.queues[kReceiveQueue],
             .send = *activation.queues[kSendQueue],
             .signals = activation.signals,
             .features = features,
             .mergeable = has(features, kFeatureMergeableBuffers),
             .dataValid = checksum && backend_->properties().checksumsValid,
             .offloads = send,
             .bufferBytes = sizeof(VirtioNetHeader) +
                            (anyLength ? net::kMaxFrameSize : std::size_t{mtu} + net::kTaggedEthernetHeaderSize)});
  active_->receive.disableNotifications();
  if (vhost_) {
    TSHYVE_TRY(vhostTimer_, EventLoop::Timer::create(loop_, [this] { handOver(); }));
  }
  if (!paused_) resume();
  return {};
}

void NetDevice::reset() {
  if (vhostRunning_) stopVhost();
  vhostTimer_.reset();
  handedOver_ = false;
  vhostRefused_ = false;
  for (EventLoop::Watch& watch : kickWatches_) watch.reset();
  kickFds_ = {-1, -1};
  backend_->setReceiving(false);
  // Cannot fail for a back end without offloads, and what a tap that refuses delivers is read by nobody.
  (void)backend_->setReceiveOffloads({});
  active_.reset();
  broken_ = false;
  buffers_.clear();
  gatheredBytes_ = 0;
  gatheredParts_ = 0;
  bouncedLength_ = 0;
  starved_ = false;
  sendBlocked_ = false;
  lease_.reset();
  leaseRestored_ = false;
}

void NetDevice::pause() {
  paused_ = true;
  if (!active_) return;
  if (vhostRunning_) stopVhost();
  if (vhostTimer_) vhostTimer_->disarm();
  returnBuffers();
  backend_->setReceiving(false);
}

void NetDevice::resume() {
  paused_ = false;
  if (!active_ || broken_) return;
  if (std::exchange(leaseRestored_, false) && callbacks_.addressAssigned) callbacks_.addressAssigned(*lease_);
  // The kernel had the queues before the pause: the driver's signals go there and nowhere else.
  if (handedOver_ && !vhostRefused_) {
    startVhost();
    return;
  }
  starved_ = false;
  active_->receive.disableNotifications();
  backend_->setReceiving(true);
  // The guest may have been told before the pause that it need not notify.
  continueLater();
  if (vhostTimer_ && !handedOver_) {
    if (lease_) {
      vhostTimer_->arm(kHandOverSoon);
    } else {
      vhostTimer_->arm(kHandOverWithoutAddress);
    }
  }
}

void NetDevice::save(StateWriter& writer) const {
  writer.section("net", kStateVersion);
  writer.put(static_cast<std::uint8_t>(lease_.has_value()));
  const net::DhcpSnoop::Lease lease = lease_.value_or(net::DhcpSnoop::Lease{});
  writer.put(lease.address);
  writer.put(lease.seconds);
}

Result<void> NetDevice::restore(StateReader& reader) {
  TSHYVE_TRY([[maybe_unused]] const std::uint32_t version, reader.section("net", kStateVersion));
  std::uint8_t known = 0;
  net::DhcpSnoop::Lease lease;
  TSHYVE_CHECK(reader.get(known));
  TSHYVE_CHECK(reader.get(lease.address));
  TSHYVE_CHECK(reader.get(lease.seconds));
  if (known != 0) lease_ = lease;
  leaseRestored_ = known != 0;
  return {};
}

void NetDevice::notify(std::uint16_t queue) {
  if (queue == kSendQueue) {
    processSend();
    return;
  }
  if (!running()) return;
  if (std::exchange(starved_, false)) {
    active_->receive.disableNotifications();
    backend_->setReceiving(true);
  }
  processReceive();
}

void NetDevice::framesReady() { processReceive(); }

void NetDevice::sendReady() {
  sendBlocked_ = false;
  processSend();
}

void NetDevice::linkChanged() {
  if (callbacks_.linkChanged) callbacks_.linkChanged(backend_->linkUp());
  if (active_ && !broken_) active_->signals.configChanged();
}

void NetDevice::continueLater() {
  if (std::exchange(continuing_, true)) return;
  loop_.post([this, alive = std::weak_ptr<bool>(alive_)] {
    if (alive.expired()) return;
    continuing_ = false;
    processReceive();
    processSend();
  });
}

void NetDevice::broken(const Error& error) {
  broken_ = true;
  backend_->setReceiving(false);
  log(error.message);
  active_->signals.deviceBroken(error.message);
}

void NetDevice::log(const std::string& line) const {
  if (callbacks_.log) callbacks_.log(name_ + ": " + line);
}

// --- Towards the guest ---

Result<bool> NetDevice::gatherBuffers(std::size_t bytes) {
  while (active_->mergeable ? gatheredBytes_ < bytes : buffers_.empty()) {
    Chain chain;
    if (!spareChains_.empty()) {
      chain = std::move(spareChains_.back());
      spareChains_.pop_back();
    }
    TSHYVE_TRY(const bool offered, active_->receive.pop(chain));
    if (!offered) {
      spareChains_.push_back(std::move(chain));
      return false;
    }
    const std::uint64_t room = chain.writableBytes();
    if (!chain.readable.empty() || room < sizeof(VirtioNetHeader)) {
      return Error{ErrorCode::kGuest, "the driver offered a receive buffer that holds no header, or cannot be written"};
    }
    gatheredBytes_ += room;
    gatheredParts_ += chain.writable.size();
    buffers_.push_back(std::move(chain));
  }
  return gatheredBytes_ >= bytes;
}

void NetDevice::buildTarget() {
  target_.clear();
  std::size_t skip = sizeof(VirtioNetHeader);
  for (const Chain& chain : buffers_) {
    for (const std::span<std::byte> part : chain.writable) {
      const std::size_t skipped = std::min(skip, part.size());
      skip -= skipped;
      if (part.size() > skipped) target_.push_back({part.data() + skipped, part.size() - skipped});
    }
    if (!active_->mergeable) break;
  }
}

std::optional<std::size_t> NetDevice::receiveInPlace(VirtioNetHeader& header) {
  buildTarget();
  return backend_->receive(header, target_);
}

bool NetDevice::fetchBounced() {
  const iovec whole{bounce_.data(), bounce_.size()};
  const auto length = backend_->receive(bounceHeader_, std::span(&whole, 1));
  bouncedLength_ = length.value_or(0);
  return length.has_value();
}

NetDevice::Delivery NetDevice::deliverBounced() {
  const std::size_t bytes = sizeof(VirtioNetHeader) + bouncedLength_;
  const auto gathered = gatherBuffers(bytes);
  if (!gathered) {
    broken(gathered.error());
    return Delivery::kBroken;
  }
  if (!*gathered) {
    // It will never fit: the driver has no more to offer, or its one buffer is too short.
    const bool all = active_->mergeable ? buffers_.size() >= active_->receive.layout().size : !buffers_.empty();
    if (!all) return Delivery::kNoBuffers;
    bouncedLength_ = 0;
    statistics_.receiveDropped++;
    return Delivery::kDone;
  }
  buildTarget();
  net::scatter(std::span(bounce_).first(bouncedLength_), target_);
  deliver(bounceHeader_, std::exchange(bouncedLength_, 0));
  return Delivery::kDone;
}

void NetDevice::deliver(VirtioNetHeader header, std::size_t length) {
  snoopToGuest(length);
  used_.clear();
  std::size_t left = sizeof header + length;
  for (const Chain& chain : buffers_) {
    const auto written = static_cast<std::uint32_t>(std::min<std::uint64_t>(left, chain.writableBytes()));
    used_.push_back({chain.head, written});
    left -= written;
    if (left == 0) break;
  }
  if (!has(active_->features, kFeatureGuestChecksum)) header.flags = 0;
  if (active_->dataValid) header.flags |= VirtioNetHeader::kDataValid;
  header.bufferCount = static_cast<std::uint16_t>(used_.size());
  buffers_.front().copyIn(0, std::as_bytes(std::span(&header, 1)));
  active_->receive.push(used_);
  for (std::size_t index = 0; index < used_.size(); index++) {
    gatheredBytes_ -= buffers_.front().writableBytes();
    gatheredParts_ -= buffers_.front().writable.size();
    spareChains_.push_back(std::move(buffers_.front()));
    buffers_.pop_front();
  }
  statistics_.receivedFrames++;
  statistics_.receivedBytes += length;
}

void NetDevice::snoopToGuest(std::size_t length) {
  if (length > net::kLongestDhcpFrame) return;
  std::array<std::byte, net::kLongestDhcpFrame> copy;
  const auto peek = std::span(copy).first(std::min(length, net::kDhcpPeekSize));
  net::gather(target_, peek);
  if (!net::mayBeDhcp(peek)) return;
  const auto frame = std::span(copy).first(length);
  net::gather(target_, frame);
  snoop_.toGuest(frame);
}

void NetDevice::waitForBuffers() {
  // The driver may have offered some since we looked: it would not tell.
  if (active_->receive.enableNotifications()) {
    active_->receive.disableNotifications();
    continueLater();
    return;
  }
  starved_ = true;
  backend_->setReceiving(false);
}

void NetDevice::returnBuffers() {
  if (active_ && !buffers_.empty()) active_->receive.undoPop(static_cast<std::uint16_t>(buffers_.size()));
  buffers_.clear();
  gatheredBytes_ = 0;
  gatheredParts_ = 0;
}

void NetDevice::processReceive() {
  if (!running() || starved_) return;
  std::size_t frames = 0;
  for (; frames < kBudget; frames++) {
    if (bouncedLength_ > 0) {
      const Delivery delivery = deliverBounced();
      if (delivery == Delivery::kBroken) return;
      if (delivery == Delivery::kNoBuffers) {
        waitForBuffers();
        break;
      }
      continue;
    }
    const auto gathered = gatherBuffers(active_->bufferBytes);
    if (!gathered) {
      broken(gathered.error());
      return;
    }
    // Straight into the guest's buffers where any frame fits; else by way of our own, and then we know its length.
    if (!*gathered || gatheredParts_ > kMaxParts) {
      if (!fetchBounced()) break;
      continue;
    }
    VirtioNetHeader header;
    const auto length = receiveInPlace(header);
    if (!length) break;
    deliver(header, *length);
  }
  if (active_->receive.shouldInterrupt()) active_->signals.queueInterrupt(kReceiveQueue);
  if (frames == kBudget) continueLater();
}

// --- From the guest ---

bool NetDevice::prepareFrame(const Chain& chain, std::size_t index) {
  const auto header = chain.read<VirtioNetHeader>(0);
  const std::uint64_t bytes = chain.readableBytes();
  if (!header || !chain.writable.empty()) return false;
  const std::uint64_t length = bytes - sizeof(VirtioNetHeader);
  if (length < net::kEthernetHeaderSize || length > net::kMaxFrameSize) return false;
  if (!header->validFor(length, active_->offloads)) return false;
  std::vector<iovec>& parts = frameParts_[index];
  parts.clear();
  std::size_t skip = sizeof(VirtioNetHeader);
  for (const std::span<const std::byte> part : chain.readable) {
    const std::size_t skipped = std::min(skip, part.size());
    skip -= skipped;
    // An iovec cannot say that it is only read.
    if (part.size() > skipped) {
      parts.push_back({const_cast<std::byte*>(part.data()) + skipped, part.size() - skipped});
    }
  }
  if (parts.size() > kMaxParts) return false;
  frames_.push_back({*header, parts, length});
  frameChains_.push_back(index);
  return true;
}

void NetDevice::snoopFromGuest(const net::OutgoingFrame& frame) {
  if (frame.length > net::kLongestDhcpFrame) return;
  std::array<std::byte, net::kLongestDhcpFrame> copy;
  const auto peek = std::span(copy).first(std::min(frame.length, net::kDhcpPeekSize));
  net::gather(frame.data, peek);
  // A fixed address: no acknowledgement will come.
  if (vhostTimer_ && !handedOver_ && net::isTcp(peek)) vhostTimer_->arm(kHandOverSoon);
  if (!net::mayBeDhcp(peek)) return;
  const auto whole = std::span(copy).first(frame.length);
  net::gather(frame.data, whole);
  snoop_.fromGuest(whole);
}

void NetDevice::finishChains(std::size_t count) {
  used_.clear();
  for (std::size_t index = 0; index < count; index++) used_.push_back({sendChains_[index].head, 0});
  active_->send.push(used_);
}

void NetDevice::processSend() {
  if (!running() || sendBlocked_) return;
  active_->send.disableNotifications();
  std::size_t total = 0;
  while (running() && !sendBlocked_ && total < kBudget) {
    frames_.clear();
    frameChains_.clear();
    std::size_t popped = 0;
    while (popped < kSendBatch) {
      Chain& chain = sendChains_[popped];
      const auto offered = active_->send.pop(chain);
      if (!offered) {
        broken(offered.error());
        return;
      }
      if (!*offered) break;
      if (!prepareFrame(chain, popped)) statistics_.sendDropped++;
      popped++;
    }
    if (popped == 0) break;
    // Before the answer can come.
    for (const net::OutgoingFrame& frame : frames_) snoopFromGuest(frame);
    const std::size_t taken = backend_->send(frames_);
    for (std::size_t index = 0; index < taken; index++) statistics_.sentBytes += frames_[index].length;
    statistics_.sentFrames += taken;
    const std::size_t done = taken == frames_.size() ? popped : frameChains_[taken];
    finishChains(done);
    if (done < popped) {
      active_->send.undoPop(static_cast<std::uint16_t>(popped - done));
      sendBlocked_ = true;
    }
    total += done;
  }
  if (!active_ || broken_ || vhostRunning_) return;
  if (active_->send.shouldInterrupt()) active_->signals.queueInterrupt(kSendQueue);
  if (sendBlocked_) return;
  // A notification costs the guest more than a look costs us: while frames come, look again instead.
  if (total > 0 || active_->send.enableNotifications()) continueLater();
}

// --- Addresses, and the kernel's data path ---

void NetDevice::addressSeen(const net::DhcpSnoop::Lease& lease) {
  lease_ = lease;
  if (callbacks_.addressAssigned) callbacks_.addressAssigned(lease);
  // Not here, in the midst of a batch.
  if (vhostTimer_ && !handedOver_) vhostTimer_->arm(kHandOverSoon);
}

void NetDevice::handOver() {
  if (!running() || handedOver_) return;
  if (bouncedLength_ > 0 || sendBlocked_) {
    vhostTimer_->arm(kHandOverSoon * 10);
    return;
  }
  handedOver_ = true;
  startVhost();
}

void NetDevice::startVhost() {
  Active& active = *active_;
  returnBuffers();
  backend_->setReceiving(false);
  std::array<VhostNet::Ring, 2> rings;
  for (std::uint16_t index = 0; index < rings.size(); index++) {
    Queue& queue = index == kReceiveQueue ? active.receive : active.send;
    queue.enableNotifications();
    rings.at(index) = {queue.layout(), queue.position(), active.signals.queueInterruptFd(index)};
  }
  const auto takeKick = [&](unsigned index) {
    kickFds_.at(index) = active.signals.queueKickFd(static_cast<std::uint16_t>(index));
    return kickFds_.at(index);
  };
  const auto started =
      vhost_->start(active.memory, active.features, backend_->properties().vhostFd, rings, takeKick, [this] {
        broken({ErrorCode::kGuest, "vhost-net found a queue of the guest's broken"});
      });
  vhostRunning_ = started.ok();
  statistics_.vhost = vhostRunning_;
  if (started) return;
  log("frames go through this process: " + started.error().message);
  vhostRefused_ = true;
  takeKicksBack();
  resume();
  continueLater();
}

void NetDevice::takeKicksBack() {
  for (std::uint16_t queue = 0; queue < kickFds_.size(); queue++) {
    const int fd = kickFds_.at(queue);
    if (fd < 0) continue;
    auto watch = loop_.watch(fd, EPOLLIN, [this, fd, queue](std::uint32_t) {
      std::uint64_t count = 0;
      if (::read(fd, &count, sizeof count) > 0) notify(queue);
    });
    if (!watch) {
      broken(watch.error());
      return;
    }
    kickWatches_.at(queue) = std::move(*watch);
  }
}

void NetDevice::stopVhost() {
  vhostRunning_ = false;
  statistics_.vhost = false;
  const auto positions = vhost_->stop();
  if (!positions) {
    broken(positions.error());
    return;
  }
  active_->receive.setPosition((*positions)[kReceiveQueue]);
  active_->send.setPosition((*positions)[kSendQueue]);
}

Result<std::uint16_t> NetDevice::addForward(const ForwardConfig& forward) {
  Result<std::uint16_t> result = Error{};
  loop_.runSync([&] { result = backend_->addForward(forward); });
  return result;
}

Result<void> NetDevice::removeForward(const ForwardConfig& forward) {
  Result<void> result;
  loop_.runSync([&] { result = backend_->removeForward(forward); });
  return result;
}

NetDevice::Statistics NetDevice::statistics() {
  Statistics statistics;
  loop_.runSync([&] {
    statistics = statistics_;
    statistics.sendDropped += backend_->counters().sendDropped;
    statistics.receiveDropped += backend_->counters().receiveDropped;
  });
  return statistics;
}

}  // namespace tshyve::virtio
