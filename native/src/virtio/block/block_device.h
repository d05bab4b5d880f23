#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/log.h"
#include "machine/machine_config.h"
#include "virtio/block/disk_file.h"
#include "virtio/block/io_engine.h"
#include "virtio/device.h"

namespace tshyve::virtio {

/// The block device (Virtual I/O Device 1.2, section 5.2) on a raw disk. Requests go to the host asynchronously and
/// come back in any order; a flush covers what was answered before it.
class BlockDevice final : public Device {
 public:
  static constexpr std::uint16_t kQueueSize = 256;
  static constexpr std::uint16_t kMaxQueues = 64;
  /// Requests at the host at one time, over all queues.
  static constexpr std::uint16_t kDepth = 256;
  /// Data buffers in one request: a queue's worth, less header and status.
  static constexpr std::uint32_t kMaxSegments = kQueueSize - 2;
  /// Ranges in one discard or write-zeroes request.
  static constexpr std::uint32_t kMaxRanges = 16;
  /// 1 GiB a range: as much as a host does at one go without keeping others waiting for seconds.
  static constexpr std::uint32_t kMaxRangeSectors = 1U << 21;
  static constexpr std::size_t kIdLength = 20;

  /// Opens the disk and picks the best way of asynchronous I/O there is.
  static Result<std::shared_ptr<BlockDevice>> create(EventLoop& loop, const DiskConfig& config, Log log = {});
  /// For tests: with this engine, which works on `disk.fd`.
  static Result<std::shared_ptr<BlockDevice>> create(EventLoop& loop, const DiskConfig& config, DiskFile disk,
                                                     std::unique_ptr<IoEngine> engine, Log log);
  /// Waits for what is under way.
  ~BlockDevice() override;

  [[nodiscard]] DeviceType type() const override { return DeviceType::kBlock; }
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::span<const std::uint16_t> queueSizes() const override { return queueSizes_; }
  [[nodiscard]] EventLoop& loop() override { return loop_; }
  void readConfig(std::uint32_t offset, std::span<std::byte> data) override;
  void writeConfig(std::uint32_t, std::span<const std::byte>) override {}
  Result<void> activate(Activation activation) override;
  void notify(std::uint16_t queue) override;
  void reset() override;
  void pause() override;
  void resume() override;
  void save(StateWriter& writer) const override;
  Result<void> restore(StateReader& reader) override;

  [[nodiscard]] const IoEngine& engine() const { return *engine_; }

 private:
  struct Request;
  struct QueueState {
    Queue* queue = nullptr;
    bool used = false;
  };
  BlockDevice(EventLoop& loop, const DiskConfig& config, DiskFile disk, std::unique_ptr<IoEngine> engine, Log log);

  void serve();
  bool takeFrom(std::uint16_t index);
  bool listen();
  void finishAnswered();
  bool reap(bool wait);
  void drain();
  /// Looks at a new request. @return false when the driver broke the protocol
  bool begin(Request& request);
  void beginTransfer(Request& request, std::uint64_t sector, bool write);
  void beginRanges(Request& request, bool discard);
  void nextRange(Request& request);
  void writeZeros(Request& request);
  void giveId(Request& request);
  void submit(Request& request);
  void completed(Request& request);
  void transferCompleted(Request& request, std::int64_t result);
  void rangeFailed(Request& request, std::int64_t error);
  void answer(Request& request, std::uint8_t status, std::uint32_t written);
  void failed(const Request& request, std::int64_t error);
  [[nodiscard]] bool inRange(std::uint64_t sector, std::uint64_t sectors) const;

  EventLoop& loop_;
  const std::string name_;
  const std::string id_;
  const std::string path_;
  const Log log_;
  const DiskFile disk_;
  std::vector<std::uint16_t> queueSizes_;
  // Gone before the disk it works on.
  std::unique_ptr<IoEngine> engine_;
  EventLoop::Watch completions_;

  std::vector<std::unique_ptr<Request>> requests_;
  std::vector<Request*> free_;
  std::vector<IoOperation*> done_;
  std::vector<QueueState> queues_;
  DriverSignals* signals_ = nullptr;
  bool writeThrough_ = false;
  bool paused_ = false;
  /// Set while a reset waits for requests whose answers nobody wants.
  bool discarding_ = false;
  bool zeroRangeWorks_ = true;
  std::int64_t loggedError_ = 0;
  std::chrono::steady_clock::time_point loggedAt_{};
};

}  // namespace tshyve::virtio
