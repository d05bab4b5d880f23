#pragma once

#include <array>
#include <string>

#include "virtio/device.h"

namespace tshyve::virtio {

/// The entropy device (Virtual I/O Device 1.2, section 5.4): one queue of buffers that it fills from getrandom(2).
class RngDevice final : public Device {
 public:
  /// Longest answer to one request; the guest asks again for more.
  static constexpr std::uint32_t kMaxRequest = 64 * 1024;

  explicit RngDevice(EventLoop& loop) : loop_(loop) {}

  [[nodiscard]] DeviceType type() const override { return DeviceType::kEntropy; }
  [[nodiscard]] std::string_view name() const override { return "rng"; }
  [[nodiscard]] std::uint64_t features() const override { return kFeatureIndirectDescriptors | kFeatureEventIndex; }
  [[nodiscard]] std::span<const std::uint16_t> queueSizes() const override { return kQueueSizes; }
  [[nodiscard]] EventLoop& loop() override { return loop_; }
  void readConfig(std::uint32_t offset, std::span<std::byte> data) override;
  void writeConfig(std::uint32_t, std::span<const std::byte>) override {}
  Result<void> activate(Activation activation) override;
  void notify(std::uint16_t queue) override;
  void reset() override;
  void pause() override {}
  void resume() override {}
  void save(StateWriter&) const override {}
  Result<void> restore(StateReader&) override { return {}; }

 private:
  static constexpr std::array<std::uint16_t, 1> kQueueSizes{64};
  EventLoop& loop_;
  Queue* queue_ = nullptr;
  DriverSignals* signals_ = nullptr;
  Chain chain_;
};

}  // namespace tshyve::virtio
