#pragma once

#include <array>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "virtio/device.h"

namespace tshyve::virtio {

/// A console with one port, hvc0 in Linux (Virtual I/O Device 1.2, section 5.3): queue 0 takes input to the guest,
/// queue 1 its output. To be destroyed on its loop's thread, or when that has ended.
class ConsoleDevice final : public Device {
 public:
  /// Called on the loop's thread; must not block.
  using Output = std::function<void(std::string)>;
  /// Most of one output buffer that is looked at: Linux sends a page at most.
  static constexpr std::size_t kMaxOutput = 64 * 1024;
  /// Most input that waits for a guest that does not read.
  static constexpr std::size_t kMaxInput = 64 * 1024;

  ConsoleDevice(EventLoop& loop, Output output) : loop_(loop), output_(std::move(output)) {}

  /// Input for the guest; all of it or nothing. Any thread.
  /// @return an error of kind kBusy when the guest reads too slowly
  Result<void> receive(std::span<const std::byte> bytes);

  [[nodiscard]] DeviceType type() const override { return DeviceType::kConsole; }
  [[nodiscard]] std::string_view name() const override { return "console"; }
  [[nodiscard]] std::uint64_t features() const override { return kFeatureIndirectDescriptors | kFeatureEventIndex; }
  [[nodiscard]] std::span<const std::uint16_t> queueSizes() const override { return kQueueSizes; }
  [[nodiscard]] EventLoop& loop() override { return loop_; }
  void readConfig(std::uint32_t offset, std::span<std::byte> data) override;
  void writeConfig(std::uint32_t, std::span<const std::byte>) override {}
  Result<void> activate(Activation activation) override;
  void notify(std::uint16_t queue) override;
  void reset() override;
  void pause() override { paused_ = true; }
  void resume() override { paused_ = false; }
  void save(StateWriter& writer) const override;
  Result<void> restore(StateReader& reader) override;

 private:
  static constexpr std::uint16_t kReceiveQueue = 0;
  static constexpr std::uint16_t kTransmitQueue = 1;
  static constexpr std::array<std::uint16_t, 2> kQueueSizes{64, 64};
  void deliverInput();
  void takeOutput();
  void broken(const Error& error);

  EventLoop& loop_;
  const Output output_;
  std::array<Queue*, 2> queues_{};
  DriverSignals* signals_ = nullptr;
  bool paused_ = false;
  Chain chain_;

  mutable std::mutex mutex_;
  std::string input_;  // guarded by mutex_
  // Expires with the device: tasks on their way to the loop hold a weak reference.
  std::shared_ptr<ConsoleDevice*> self_ = std::make_shared<ConsoleDevice*>(this);
};

}  // namespace tshyve::virtio
