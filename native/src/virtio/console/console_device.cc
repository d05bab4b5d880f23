#include "virtio/console/console_device.h"

#include <algorithm>
#include <cstring>

namespace tshyve::virtio {

Result<void> ConsoleDevice::receive(std::span<const std::byte> bytes) {
  {
    const std::lock_guard lock(mutex_);
    if (bytes.size() > kMaxInput - input_.size()) {
      return Error{ErrorCode::kBusy, "the guest does not read its console (hvc0): " + std::to_string(input_.size()) +
                                         " bytes wait already"};
    }
    input_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  loop_.post([self = std::weak_ptr(self_)] {
    if (const auto device = self.lock()) (*device)->deliverInput();
  });
  return {};
}

void ConsoleDevice::readConfig(std::uint32_t, std::span<std::byte> data) { std::memset(data.data(), 0, data.size()); }

Result<void> ConsoleDevice::activate(Activation activation) {
  std::ranges::copy(activation.queues, queues_.begin());
  signals_ = &activation.signals;
  return {};
}

void ConsoleDevice::notify(std::uint16_t queue) {
  if (queue == kReceiveQueue) deliverInput();
  if (queue == kTransmitQueue) takeOutput();
}

void ConsoleDevice::reset() {
  queues_ = {};
  signals_ = nullptr;
}

void ConsoleDevice::deliverInput() {
  Queue* queue = queues_[kReceiveQueue];
  if (queue == nullptr || paused_) return;
  const std::lock_guard lock(mutex_);
  while (!input_.empty()) {
    const auto popped = queue->pop(chain_);
    if (!popped) return broken(popped.error());
    if (!*popped) break;
    const std::size_t copied = chain_.copyIn(0, std::as_bytes(std::span(input_)));
    input_.erase(0, copied);
    queue->push(chain_.head, static_cast<std::uint32_t>(copied));
  }
  if (queue->shouldInterrupt()) signals_->queueInterrupt(kReceiveQueue);
}

void ConsoleDevice::takeOutput() {
  Queue* queue = queues_[kTransmitQueue];
  if (queue == nullptr || paused_) return;
  for (;;) {
    const auto popped = queue->pop(chain_);
    if (!popped) return broken(popped.error());
    if (!*popped) break;
    std::string text(std::min<std::uint64_t>(chain_.readableBytes(), kMaxOutput), '\0');
    chain_.copyOut(0, std::as_writable_bytes(std::span(text)));
    queue->push(chain_.head, 0);
    if (!text.empty()) output_(std::move(text));
  }
  if (queue->shouldInterrupt()) signals_->queueInterrupt(kTransmitQueue);
}

void ConsoleDevice::broken(const Error& error) {
  signals_->deviceBroken(error.message);
  queues_ = {};
}

void ConsoleDevice::save(StateWriter& writer) const {
  writer.section("console", 1);
  const std::lock_guard lock(mutex_);
  writer.putString(input_);
}

Result<void> ConsoleDevice::restore(StateReader& reader) {
  TSHYVE_CHECK(reader.section("console", 1));
  TSHYVE_TRY(std::string input, reader.getString());
  if (input.size() > kMaxInput) return Error{ErrorCode::kCorrupt, "the snapshot's console input is too long"};
  const std::lock_guard lock(mutex_);
  input_ = std::move(input);
  return {};
}

}  // namespace tshyve::virtio
