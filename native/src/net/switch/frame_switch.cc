#include "net/switch/frame_switch.h"

#include <algorithm>
#include <cstring>

namespace tshyve::net {
namespace {

/// One port may not keep the others waiting for longer than this many frames.
constexpr int kFramesPerTurn = 64;
/// What may wait for a machine that is slow: a few TCP windows. A machine that takes nothing loses frames, the others
/// do not notice.
constexpr std::size_t kWaitingBytes = 2 << 20;
constexpr std::uint8_t kGroupBit = 1;

MacAddress addressAt(std::span<const std::byte> frame, std::size_t offset) {
  MacAddress mac{};
  std::memcpy(mac.data(), frame.data() + offset, mac.size());
  return mac;
}

}  // namespace

FrameSwitch::Port::Port(FrameSwitch& switchOwner, std::unique_ptr<FrameBackend> frames,
                        std::optional<MacAddress> address)
    : owner(switchOwner), backend(std::move(frames)), mac(address), waiting(kWaitingBytes) {
  backend->setListener(this);
  backend->setReceiving(true);
}

FrameSwitch::Port::~Port() { backend->setListener(nullptr); }

FrameSwitch::FrameSwitch(EventLoop& loop, std::unique_ptr<FrameBackend> uplink, Interceptor interceptor)
    : loop_(loop), interceptor_(std::move(interceptor)), scratch_(kMaxFrameSize) {
  uplink_ = std::make_unique<Port>(*this, std::move(uplink), std::nullopt);
}

FrameSwitch::~FrameSwitch() = default;

Result<void> FrameSwitch::addMachine(const MacAddress& mac, std::unique_ptr<FrameBackend> backend) {
  if (machines_.contains(mac)) {
    return Error{ErrorCode::kBusy, "a machine with the address " + toString(mac) + " is on this network already"};
  }
  machines_[mac] = std::make_unique<Port>(*this, std::move(backend), mac);
  return {};
}

void FrameSwitch::removeMachine(const MacAddress& mac) { machines_.erase(mac); }

void FrameSwitch::Port::framesReady() {
  VirtioNetHeader header;
  const iovec target{owner.scratch_.data(), owner.scratch_.size()};
  for (int count = 0; count < kFramesPerTurn; count++) {
    const auto length = backend->receive(header, std::span(&target, 1));
    if (!length) return;
    owner.forward(*this, std::span(owner.scratch_).first(*length));
  }
  // There may be more; it is the others' turn first.
  owner.loop_.post([alive = std::weak_ptr<bool>(owner.alive_), &owner = owner, address = mac] {
    if (alive.expired()) return;
    const auto found = address ? owner.machines_.find(*address) : owner.machines_.end();
    if (!address) {
      owner.uplink_->framesReady();
    } else if (found != owner.machines_.end()) {
      found->second->framesReady();
    }
  });
}

bool FrameSwitch::Port::deliver(std::span<const std::byte> frame) {
  if (!waiting.empty()) return waiting.push(frame);
  const iovec data{const_cast<std::byte*>(frame.data()), frame.size()};
  const OutgoingFrame outgoing{{}, std::span(&data, 1), frame.size()};
  return backend->send(std::span(&outgoing, 1)) == 1 || waiting.push(frame);
}

void FrameSwitch::Port::sendReady() {
  while (!waiting.empty()) {
    const auto frame = waiting.front();
    const iovec data{const_cast<std::byte*>(frame.data()), frame.size()};
    const OutgoingFrame outgoing{{}, std::span(&data, 1), frame.size()};
    if (backend->send(std::span(&outgoing, 1)) == 0) return;
    waiting.pop();
  }
}

void FrameSwitch::forward(Port& from, std::span<const std::byte> frame) {
  if (frame.size() < kEthernetHeaderSize) return;
  const MacAddress destination = addressAt(frame, 0);
  if (from.mac) {
    if (addressAt(frame, 6) != *from.mac) {
      counters_.spoofed++;
      return;
    }
    answers_.clear();
    const bool handled = interceptor_ && interceptor_(frame, answers_);
    for (const auto& answer : answers_) deliver(from, answer);
    if (handled) return;
  }
  if ((destination[0] & kGroupBit) == 0) {
    const auto machine = machines_.find(destination);
    if (machine != machines_.end()) {
      if (machine->second.get() != &from) deliver(*machine->second, frame);
    } else if (from.mac) {
      deliver(*uplink_, frame);
    }
    return;
  }
  for (const auto& [mac, port] : machines_) {
    if (port.get() != &from) deliver(*port, frame);
  }
  if (from.mac) deliver(*uplink_, frame);
}

void FrameSwitch::deliver(Port& to, std::span<const std::byte> frame) {
  if (to.deliver(frame)) {
    counters_.forwarded++;
  } else {
    counters_.dropped++;
  }
}

}  // namespace tshyve::net
