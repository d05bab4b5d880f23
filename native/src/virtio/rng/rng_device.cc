#include "virtio/rng/rng_device.h"

#include <sys/random.h>

#include <algorithm>
#include <cstring>

namespace tshyve::virtio {
namespace {

/// @return how many bytes were filled: fewer than asked only if the kernel fails us
std::uint32_t fill(const Chain& chain) {
  std::uint32_t done = 0;
  for (const std::span<std::byte> buffer : chain.writable) {
    std::span<std::byte> rest = buffer.first(std::min<std::size_t>(buffer.size(), RngDevice::kMaxRequest - done));
    while (!rest.empty()) {
      // A signal may cut a long request short (getrandom(2)).
      const ssize_t got = ::getrandom(rest.data(), rest.size(), 0);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return done;
      rest = rest.subspan(static_cast<std::size_t>(got));
      done += static_cast<std::uint32_t>(got);
    }
  }
  return done;
}

}  // namespace

void RngDevice::readConfig(std::uint32_t, std::span<std::byte> data) { std::memset(data.data(), 0, data.size()); }

Result<void> RngDevice::activate(Activation activation) {
  queue_ = activation.queues[0];
  signals_ = &activation.signals;
  return {};
}

void RngDevice::notify(std::uint16_t queue) {
  if (queue_ == nullptr || queue != 0) return;
  for (;;) {
    const auto popped = queue_->pop(chain_);
    if (!popped) {
      signals_->deviceBroken(popped.error().message);
      queue_ = nullptr;
      return;
    }
    if (!*popped) break;
    queue_->push(chain_.head, fill(chain_));
  }
  if (queue_->shouldInterrupt()) signals_->queueInterrupt(0);
}

void RngDevice::reset() {
  queue_ = nullptr;
  signals_ = nullptr;
}

}  // namespace tshyve::virtio
