#include "virtio/vsock/vsock_device.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace tshyve::virtio {
namespace {

using std::chrono::steady_clock;
using State = VsockConnection::State;

constexpr std::uint16_t kReceiveQueue = 0;
constexpr std::uint16_t kSendQueue = 1;
constexpr std::uint16_t kEventQueue = 2;
constexpr std::array<std::uint16_t, 3> kQueueSizes = {256, 256, 64};

/// Section 5.10.3.
constexpr std::uint64_t kFeatureStream = 1ULL << 0;

constexpr std::size_t kMaxConnections = 1024;
/// Beyond this the guest's packets wait until it takes the answers to its earlier ones.
constexpr std::size_t kMaxResets = 256;
constexpr std::size_t kBudget = 256;
/// Parts of a buffer used for one packet; recvmsg(2) takes 1024.
constexpr std::size_t kMaxParts = 256;
constexpr std::uint32_t kMaxDataBytes = 64 * 1024;
/// How long the guest may take to answer a request, to confirm an end, and to take back the buffer of an event.
constexpr std::chrono::seconds kAnswerTime{2};
/// The host's ports are numbered from here, where guests do not look for services.
constexpr std::uint32_t kFirstHostPort = 1U << 30;
constexpr std::uint32_t kStateVersion = 1;

}  // namespace

VsockDevice::VsockDevice(EventLoop& loop, const VsockConfig& config, Log log)
    : loop_(loop), config_(config), log_(std::move(log)), nextHostPort_(kFirstHostPort) {}

Result<std::unique_ptr<VsockDevice>> VsockDevice::create(EventLoop& loop, const VsockConfig& config, Log log) {
  if (config.guestCid < kFirstGuestCid || config.guestCid == UINT32_MAX) {
    return Error{ErrorCode::kInvalidArgument,
                 "the guest's vsock address " + std::to_string(config.guestCid) + " is reserved; take 3 or more"};
  }
  std::unique_ptr<VsockDevice> device(new VsockDevice(loop, config, std::move(log)));
  Result<void> result;
  loop.runSync([&] {
    result = [&]() -> Result<void> {
      TSHYVE_TRY(device->timer_, EventLoop::Timer::create(loop, [self = device.get()] { self->onTimer(); }));
      TSHYVE_TRY(device->hostSockets_,
                 HostSockets::create(loop, config, [self = device.get()](HostSockets::Client client) {
                   self->onClient(std::move(client));
                 }));
      return {};
    }();
  });
  TSHYVE_CHECK(result);
  return device;
}

VsockDevice::~VsockDevice() {
  loop_.runSync([&] {
    reset();
    alive_.reset();
    hostSockets_.reset();
    timer_.reset();
  });
}

std::uint64_t VsockDevice::features() const {
  return kFeatureStream | kFeatureIndirectDescriptors | kFeatureEventIndex;
}

std::span<const std::uint16_t> VsockDevice::queueSizes() const { return kQueueSizes; }

void VsockDevice::readConfig(std::uint32_t offset, std::span<std::byte> data) {
  const std::uint64_t cid = config_.guestCid;
  const auto bytes = std::as_bytes(std::span(&cid, 1));
  std::fill(data.begin(), data.end(), std::byte{0});
  if (offset < bytes.size()) {
    std::memcpy(data.data(), bytes.data() + offset, std::min(data.size(), bytes.size() - offset));
  }
}

Result<void> VsockDevice::activate(Activation activation) {
  const auto& queues = activation.queues;
  if (queues.size() != kQueueSizes.size() || std::find(queues.begin(), queues.end(), nullptr) != queues.end()) {
    return Error{ErrorCode::kGuest, "the driver did not set up the three queues of the vsock device"};
  }
  active_.emplace(Active{.receive = *queues[kReceiveQueue],
                         .send = *queues[kSendQueue],
                         .event = *queues[kEventQueue],
                         .signals = activation.signals});
  if (!paused_) resume();
  return {};
}

void VsockDevice::reset() {
  active_.reset();
  broken_ = false;
  connections_.clear();
  ready_.clear();
  resets_.clear();
  eventBuffers_.clear();
  transportReset_ = false;
  transportResetTold_ = false;
  holdUntil_.reset();
}

void VsockDevice::pause() {
  paused_ = true;
  if (!active_) return;
  if (!eventBuffers_.empty()) active_->event.undoPop(static_cast<std::uint16_t>(eventBuffers_.size()));
  eventBuffers_.clear();
}

void VsockDevice::resume() {
  paused_ = false;
  if (!active_) return;
  if (transportReset_) hold();
  processAll();
}

void VsockDevice::save(StateWriter& writer) const {
  writer.section("vsock", kStateVersion);
  writer.put(nextHostPort_);
}

Result<void> VsockDevice::restore(StateReader& reader) {
  TSHYVE_TRY([[maybe_unused]] const std::uint32_t version, reader.section("vsock", kStateVersion));
  std::uint32_t port = 0;
  TSHYVE_CHECK(reader.get(port));
  nextHostPort_ = std::max(port, kFirstHostPort);
  transportReset_ = true;
  return {};
}

void VsockDevice::notify(std::uint16_t /*queue*/) { processAll(); }

void VsockDevice::processAll() {
  if (!running()) return;
  processEvents();
  processSend();
  processReceive();
}

void VsockDevice::continueLater() {
  if (std::exchange(continuing_, true)) return;
  loop_.post([this, alive = std::weak_ptr<bool>(alive_)] {
    if (alive.expired()) return;
    continuing_ = false;
    processAll();
  });
}

void VsockDevice::broken(const Error& error) {
  broken_ = true;
  connections_.clear();
  ready_.clear();
  resets_.clear();
  if (log_) log_("vsock: " + error.message);
  active_->signals.deviceBroken(error.message);
}

std::size_t VsockDevice::connectionCount() {
  std::size_t count = 0;
  loop_.runSync([&] { count = connections_.size(); });
  return count;
}

// --- Connections ---

VsockConnection* VsockDevice::find(const Key& key) {
  const auto found = connections_.find(key);
  return found == connections_.end() ? nullptr : found->second.get();
}

VsockConnection* VsockDevice::add(const Key& key, UniqueFd socket, State state) {
  if (connections_.size() >= kMaxConnections) return nullptr;
  auto connection = std::make_unique<VsockConnection>(key, std::move(socket), state);
  // Edge-triggered: what is ready is remembered until it has been dealt with, however long the guest takes.
  auto watch = loop_.watch(connection->fd(), EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                           [this, key](std::uint32_t events) { onSocket(key, events); });
  if (!watch) return nullptr;
  connection->watch = std::move(*watch);
  return connections_.insert_or_assign(key, std::move(connection)).first->second.get();
}

void VsockDevice::remove(const Key& key) { connections_.erase(key); }

void VsockDevice::enqueue(VsockConnection& connection) {
  if (std::exchange(connection.queued, true)) return;
  ready_.push_back(connection.key());
}

void VsockDevice::say(VsockConnection& connection, unsigned pending) {
  connection.pending |= pending;
  enqueue(connection);
}

void VsockDevice::abort(VsockConnection& connection) {
  connection.setState(State::kClosing);
  connection.pending = 0;
  connection.deadline.reset();
  // The host program need not wait until the guest has a buffer.
  ::shutdown(connection.fd(), SHUT_RDWR);
  say(connection, VsockConnection::kPendingReset);
}

void VsockDevice::sayShutdown(VsockConnection& connection) {
  if (connection.state() != State::kEstablished) return;
  say(connection, VsockConnection::kPendingShutdown);
  if (!connection.hostClosed) return;
  connection.deadline = steady_clock::now() + kAnswerTime;
  armTimer(*connection.deadline);
}

void VsockDevice::armTimer(steady_clock::time_point deadline) {
  if (timerDue_ && *timerDue_ <= deadline) return;
  timerDue_ = deadline;
  timer_->arm(std::max(deadline - steady_clock::now(), steady_clock::duration::zero()));
}

void VsockDevice::onTimer() {
  timerDue_.reset();
  const auto now = steady_clock::now();
  if (holdUntil_ && *holdUntil_ <= now) holdUntil_.reset();
  std::optional<steady_clock::time_point> next = holdUntil_;
  for (const auto& [key, connection] : connections_) {
    if (!connection->deadline) continue;
    if (*connection->deadline <= now) {
      connection->deadline.reset();
      abort(*connection);
    } else {
      next = std::min(next.value_or(*connection->deadline), *connection->deadline);
    }
  }
  if (next) armTimer(*next);
  processAll();
}

void VsockDevice::onClient(HostSockets::Client client) {
  // Closing the socket is the answer.
  if (!running()) return;
  Key key{nextHostPort_, client.port};
  while (connections_.contains(key)) key.hostPort = std::max(key.hostPort + 1, kFirstHostPort);
  nextHostPort_ = std::max(key.hostPort + 1, kFirstHostPort);
  VsockConnection* connection = add(key, std::move(client.socket), State::kRequested);
  if (connection == nullptr) return;
  connection->acknowledge = client.acknowledge;
  connection->deadline = steady_clock::now() + kAnswerTime;
  armTimer(*connection->deadline);
  say(*connection, VsockConnection::kPendingRequest);
  processReceive();
}

void VsockDevice::onSocket(const Key& key, std::uint32_t events) {
  VsockConnection* connection = find(key);
  if (connection == nullptr) return;
  if ((events & (EPOLLHUP | EPOLLERR)) != 0 && !std::exchange(connection->hostClosed, true) && connection->hostEnded) {
    sayShutdown(*connection);
  }
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) connection->readable = true;
  if ((events & EPOLLOUT) != 0 && connection->state() == State::kEstablished) {
    if (!connection->flush() || connection->finished()) {
      abort(*connection);
    } else if (connection->creditUpdateDue()) {
      say(*connection, VsockConnection::kPendingCreditUpdate);
    }
  }
  if (connection->wantsRead()) enqueue(*connection);
  processReceive();
}

// --- From the guest ---

void VsockDevice::processSend() {
  if (!running()) return;
  std::size_t packets = 0;
  for (; packets < kBudget; packets++) {
    // No answer without room to keep it: the guest has to take some first.
    if (resets_.size() >= kMaxResets) break;
    const auto offered = active_->send.pop(sendChain_);
    if (!offered) {
      broken(offered.error());
      return;
    }
    if (!*offered) break;
    handlePacket(sendChain_);
    active_->send.push(sendChain_.head, 0);
  }
  if (active_->send.shouldInterrupt()) active_->signals.queueInterrupt(kSendQueue);
  if (packets == kBudget) continueLater();
}

void VsockDevice::handlePacket(const Chain& chain) {
  // Copied once: the guest may change it while we look.
  const auto header = chain.read<VsockHeader>(0);
  if (!header || header->sourceCid != config_.guestCid || header->destinationCid != kHostCid) return;
  if (header->length > chain.readableBytes() - sizeof(VsockHeader)) return;
  const auto operation = static_cast<VsockOperation>(header->operation);
  if (header->type != kVsockTypeStream) {
    refuse(*header);
    return;
  }
  if (operation == VsockOperation::kRequest) {
    handleRequest(*header);
    return;
  }
  const Key key{header->destinationPort, header->sourcePort};
  VsockConnection* connection = find(key);
  if (connection == nullptr) {
    refuse(*header);
    return;
  }
  if (operation == VsockOperation::kReset) {
    remove(key);
    return;
  }
  connection->updatePeerCredit(header->bufferAllocated, header->forwardedCount);
  if (operation == VsockOperation::kResponse) {
    handleResponse(*connection);
    return;
  }
  // Said before the guest heard that it is over.
  if (connection->state() == State::kClosing && operation != VsockOperation::kShutdown) return;
  if (connection->state() == State::kRequested) {
    abort(*connection);
    return;
  }
  switch (operation) {
    case VsockOperation::kData:
      handleData(*connection, chain, header->length);
      break;
    case VsockOperation::kShutdown:
      if (connection->guestShutdown(header->flags)) abort(*connection);
      break;
    case VsockOperation::kCreditUpdate:
      break;
    case VsockOperation::kCreditRequest:
      say(*connection, VsockConnection::kPendingCreditUpdate);
      break;
    default:
      abort(*connection);
  }
  // Every packet may have brought credit.
  if (connection->wantsRead()) enqueue(*connection);
}

void VsockDevice::handleRequest(const VsockHeader& header) {
  const Key key{header.destinationPort, header.sourcePort};
  if (VsockConnection* existing = find(key); existing != nullptr) {
    // The guest has forgotten the old one, or is up to something.
    abort(*existing);
    return;
  }
  auto socket = hostSockets_->connect(header.destinationPort);
  VsockConnection* connection = socket ? add(key, std::move(*socket), State::kEstablished) : nullptr;
  if (connection == nullptr) {
    refuse(header);
    return;
  }
  connection->updatePeerCredit(header.bufferAllocated, header.forwardedCount);
  say(*connection, VsockConnection::kPendingResponse);
}

void VsockDevice::handleResponse(VsockConnection& connection) {
  if (connection.state() != State::kRequested) {
    abort(connection);
    return;
  }
  connection.setState(State::kEstablished);
  connection.deadline.reset();
  if (connection.acknowledge) {
    // A socket nothing was written to takes a line.
    const std::string line = "OK " + std::to_string(connection.key().hostPort) + "\n";
    if (::send(connection.fd(), line.data(), line.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(line.size())) {
      abort(connection);
      return;
    }
  }
  if (connection.wantsRead()) enqueue(connection);
}

void VsockDevice::handleData(VsockConnection& connection, const Chain& chain, std::uint32_t length) {
  parts_.clear();
  std::size_t skip = sizeof(VsockHeader);
  std::size_t left = length;
  for (const std::span<const std::byte> part : chain.readable) {
    const std::size_t skipped = std::min(skip, part.size());
    skip -= skipped;
    const std::size_t used = std::min(left, part.size() - skipped);
    // An iovec cannot say that it is only read.
    if (used > 0) parts_.push_back({const_cast<std::byte*>(part.data()) + skipped, used});
    left -= used;
  }
  if (!connection.writeToHost(parts_, length)) {
    abort(connection);
    return;
  }
  if (connection.creditUpdateDue()) say(connection, VsockConnection::kPendingCreditUpdate);
}

void VsockDevice::refuse(const VsockHeader& header) {
  // A reset is not answered, or two sides could go on for ever.
  if (static_cast<VsockOperation>(header.operation) == VsockOperation::kReset) return;
  VsockHeader answer;
  answer.sourceCid = kHostCid;
  answer.destinationCid = config_.guestCid;
  answer.sourcePort = header.destinationPort;
  answer.destinationPort = header.sourcePort;
  answer.type = header.type;
  answer.operation = static_cast<std::uint16_t>(VsockOperation::kReset);
  resets_.push_back(answer);
}

// --- Towards the guest ---

VsockHeader VsockDevice::headerFor(VsockConnection& connection, VsockOperation operation) const {
  VsockHeader header;
  header.sourceCid = kHostCid;
  header.destinationCid = config_.guestCid;
  header.sourcePort = connection.key().hostPort;
  header.destinationPort = connection.key().guestPort;
  header.type = kVsockTypeStream;
  header.operation = static_cast<std::uint16_t>(operation);
  header.bufferAllocated = kVsockBufferBytes;
  header.forwardedCount = connection.tellForwarded();
  return header;
}

void VsockDevice::processReceive() {
  if (!running() || holdUntil_) return;
  const bool answersWaited = resets_.size() >= kMaxResets;
  std::size_t packets = 0;
  for (; packets < kBudget && (!resets_.empty() || !ready_.empty()); packets++) {
    const auto offered = active_->receive.pop(receiveChain_);
    if (!offered) {
      broken(offered.error());
      return;
    }
    if (!*offered) break;
    if (!receiveChain_.readable.empty() || receiveChain_.writableBytes() < sizeof(VsockHeader)) {
      broken({ErrorCode::kGuest, "the driver offered a vsock buffer that holds no header, or cannot be written"});
      return;
    }
    std::uint32_t written = 0;
    if (fill(receiveChain_, written) == Filled::kNothing) {
      active_->receive.undoPop();
      break;
    }
    active_->receive.push(receiveChain_.head, written);
  }
  if (active_->receive.shouldInterrupt()) active_->signals.queueInterrupt(kReceiveQueue);
  if (packets == kBudget || (answersWaited && resets_.size() < kMaxResets)) continueLater();
}

VsockDevice::Filled VsockDevice::fill(const Chain& chain, std::uint32_t& written) {
  if (!resets_.empty()) {
    chain.copyIn(0, std::as_bytes(std::span(&resets_.front(), 1)));
    resets_.pop_front();
    written = sizeof(VsockHeader);
    return Filled::kPacket;
  }
  while (!ready_.empty()) {
    const Key key = ready_.front();
    ready_.pop_front();
    VsockConnection* connection = find(key);
    if (connection == nullptr || !connection->queued) continue;
    connection->queued = false;
    if (fillFrom(*connection, chain, written) == Filled::kNothing) continue;
    // Others first, then it again.
    connection = find(key);
    if (connection != nullptr && (connection->pending != 0 || connection->wantsRead())) enqueue(*connection);
    return Filled::kPacket;
  }
  return Filled::kNothing;
}

VsockDevice::Filled VsockDevice::fillFrom(VsockConnection& connection, const Chain& chain, std::uint32_t& written) {
  struct Message {
    unsigned pending;
    VsockOperation operation;
  };
  constexpr Message kMessages[] = {{VsockConnection::kPendingReset, VsockOperation::kReset},
                                   {VsockConnection::kPendingRequest, VsockOperation::kRequest},
                                   {VsockConnection::kPendingResponse, VsockOperation::kResponse},
                                   {VsockConnection::kPendingShutdown, VsockOperation::kShutdown},
                                   {VsockConnection::kPendingCreditUpdate, VsockOperation::kCreditUpdate},
                                   {VsockConnection::kPendingCreditRequest, VsockOperation::kCreditRequest}};
  for (const Message& message : kMessages) {
    if ((connection.pending & message.pending) == 0) continue;
    connection.pending &= ~message.pending;
    VsockHeader header = headerFor(connection, message.operation);
    if (message.operation == VsockOperation::kShutdown) {
      header.flags = connection.hostClosed ? kVsockShutdownBoth : kVsockShutdownSend;
    }
    // Any packet carries the credit.
    if (message.operation != VsockOperation::kReset) connection.pending &= ~VsockConnection::kPendingCreditUpdate;
    chain.copyIn(0, std::as_bytes(std::span(&header, 1)));
    written = sizeof header;
    if (message.operation == VsockOperation::kReset) remove(connection.key());
    return Filled::kPacket;
  }
  if (!connection.wantsRead()) return Filled::kNothing;
  return fillData(connection, chain, written);
}

VsockDevice::Filled VsockDevice::fillData(VsockConnection& connection, const Chain& chain, std::uint32_t& written) {
  std::size_t room = std::min(connection.peerCredit(), kMaxDataBytes);
  if (room == 0) {
    // The guest says when it has room again; asking covers guests that only answer.
    if (std::exchange(connection.creditAsked, true)) return Filled::kNothing;
    connection.pending |= VsockConnection::kPendingCreditRequest;
    return fillFrom(connection, chain, written);
  }
  parts_.clear();
  std::size_t skip = sizeof(VsockHeader);
  for (const std::span<std::byte> part : chain.writable) {
    const std::size_t skipped = std::min(skip, part.size());
    skip -= skipped;
    const std::size_t used = std::min(room, part.size() - skipped);
    if (used > 0 && parts_.size() < kMaxParts) parts_.push_back({part.data() + skipped, used});
    room -= used;
  }
  // A buffer for a header and nothing else is of no use for data; the next may be.
  if (parts_.empty()) {
    VsockHeader header = headerFor(connection, VsockOperation::kCreditUpdate);
    chain.copyIn(0, std::as_bytes(std::span(&header, 1)));
    written = sizeof header;
    return Filled::kPacket;
  }
  const auto count = connection.readFromHost(parts_);
  if (!count) {
    connection.setState(State::kClosing);
    connection.pending = VsockConnection::kPendingReset;
    return fillFrom(connection, chain, written);
  }
  if (!*count) {
    connection.readable = false;
    return Filled::kNothing;
  }
  if (**count == 0) {
    connection.hostEnded = true;
    sayShutdown(connection);
    return fillFrom(connection, chain, written);
  }
  const auto length = static_cast<std::uint32_t>(**count);
  connection.sentToGuest(length);
  VsockHeader header = headerFor(connection, VsockOperation::kData);
  header.length = length;
  chain.copyIn(0, std::as_bytes(std::span(&header, 1)));
  written = static_cast<std::uint32_t>(sizeof header) + length;
  return Filled::kPacket;
}

// --- Events ---

void VsockDevice::processEvents() {
  if (!transportReset_ && !holdUntil_) return;
  // All buffers are taken, so that the driver notifies when it gives one back.
  for (;;) {
    Chain chain;
    const auto offered = active_->event.pop(chain);
    if (!offered) {
      broken(offered.error());
      return;
    }
    if (!*offered) break;
    if (transportResetTold_) holdUntil_.reset();
    eventBuffers_.push_back(std::move(chain));
  }
  if (transportReset_ && !eventBuffers_.empty()) tellTransportReset();
  if (holdUntil_) return;
  if (!eventBuffers_.empty()) active_->event.undoPop(static_cast<std::uint16_t>(eventBuffers_.size()));
  eventBuffers_.clear();
}

void VsockDevice::tellTransportReset() {
  transportReset_ = false;
  const Chain& chain = eventBuffers_.front();
  const std::uint32_t event = kVsockEventTransportReset;
  const auto written = chain.copyIn(0, std::as_bytes(std::span(&event, 1)));
  active_->event.push(chain.head, static_cast<std::uint32_t>(written));
  eventBuffers_.pop_front();
  if (active_->event.shouldInterrupt()) active_->signals.queueInterrupt(kEventQueue);
  transportResetTold_ = true;
  hold();
}

void VsockDevice::hold() {
  holdUntil_ = steady_clock::now() + kAnswerTime;
  armTimer(*holdUntil_);
}

}  // namespace tshyve::virtio
