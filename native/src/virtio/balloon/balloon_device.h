#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "virtio/device.h"

namespace tshyve::virtio {

/// Memory statistics of the guest, in bytes or counts, by tag (Virtual I/O Device 1.2, section 5.5.6.4).
using BalloonStatistics = std::map<std::uint16_t, std::uint64_t>;

/// The memory balloon (Virtual I/O Device 1.2, section 5.5). Pages the guest puts into it, or reports as free, go back
/// to the host and read as zeros when the guest uses them again. What the driver says is a claim: no decision of ours
/// rests on it. To be destroyed on its loop's thread, or when that has ended.
class BalloonDevice final : public Device {
 public:
  /// Pages in one request; Linux sends 256.
  static constexpr std::size_t kMaxPages = 64 * 1024;

  explicit BalloonDevice(EventLoop& loop) : loop_(loop) {}

  /// Asks the guest to give this much memory up (rounded down to pages), or to take it back. Any thread.
  void setTarget(std::uint64_t bytes);
  /// What the guest says it has given up. Any thread.
  [[nodiscard]] std::uint64_t actualBytes() const { return std::uint64_t{actualPages_.load()} << kPageShift; }
  /// What the guest has reported as free and the host has got back, ever. Any thread.
  [[nodiscard]] std::uint64_t reportedBytes() const { return reportedBytes_.load(); }
  /// Asks the guest for fresh statistics; `done` is called with them on the loop's thread. Any thread.
  /// A later request replaces one the guest has not answered.
  void requestStatistics(std::function<void(const BalloonStatistics&)> done);

  [[nodiscard]] DeviceType type() const override { return DeviceType::kBalloon; }
  [[nodiscard]] std::string_view name() const override { return "balloon"; }
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::span<const std::uint16_t> queueSizes() const override { return kQueueSizes; }
  [[nodiscard]] EventLoop& loop() override { return loop_; }
  void readConfig(std::uint32_t offset, std::span<std::byte> data) override;
  void writeConfig(std::uint32_t offset, std::span<const std::byte> data) override;
  Result<void> activate(Activation activation) override;
  void notify(std::uint16_t queue) override;
  void reset() override;
  void pause() override { paused_ = true; }
  void resume() override;
  void save(StateWriter& writer) const override;
  Result<void> restore(StateReader& reader) override;

  // Feature bits (section 5.5.3).
  static constexpr std::uint64_t kFeatureStatistics = 1U << 1;
  static constexpr std::uint64_t kFeatureDeflateOnOom = 1U << 2;
  static constexpr std::uint64_t kFeaturePageReporting = 1U << 5;

 private:
  static constexpr unsigned kPageShift = 12;
  static constexpr std::array<std::uint16_t, 4> kQueueSizes{128, 128, 128, 128};
  enum class Role { kInflate, kDeflate, kStatistics, kReporting };

  /// Runs every chain through `handle`, which works on chain_.
  void serve(std::uint16_t queue, Result<void> (BalloonDevice::*handle)());
  Result<void> inflate();
  Result<void> deflate() { return {}; }
  Result<void> report();
  void takeStatistics(std::uint16_t queue);
  void askForStatistics();
  void broken(const Error& error);

  EventLoop& loop_;
  std::array<Queue*, 4> queues_{};
  std::array<std::optional<Role>, 4> roles_{};
  const GuestMemory* memory_ = nullptr;
  DriverSignals* signals_ = nullptr;
  bool paused_ = false;
  Chain chain_;
  // The buffer the driver has lent us for the next statistics.
  std::optional<std::uint16_t> statisticsHead_;
  std::function<void(const BalloonStatistics&)> statisticsDone_;

  std::atomic<std::uint32_t> targetPages_{0};
  std::atomic<std::uint32_t> actualPages_{0};
  std::atomic<std::uint64_t> reportedBytes_{0};
  // Expires with the device: tasks on their way to the loop hold a weak reference.
  std::shared_ptr<BalloonDevice*> self_ = std::make_shared<BalloonDevice*>(this);
};

}  // namespace tshyve::virtio
