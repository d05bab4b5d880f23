#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>

#include "virtio/device.h"
#include "virtio/vhost_user/connection.h"

namespace tshyve::virtio {

/// A host folder in the guest (Virtual I/O Device 1.2, section 5.11), served by a virtiofsd behind a vhost-user socket.
/// When the daemon goes, the device is broken until the driver resets it; by then a new daemon may listen.
class FsDevice final : public Device {
 public:
  using Connector = std::function<Result<UniqueFd>()>;

  /// @param loop of its own: requests to the daemon are waited for
  /// @param tag what the guest mounts, at most 36 bytes
  /// @param socket where the daemon listens; it must do so already
  static Result<std::unique_ptr<FsDevice>> create(EventLoop& loop, const std::string& tag, const std::string& socket);
  static Result<std::unique_ptr<FsDevice>> create(EventLoop& loop, const std::string& tag, Connector connect,
                                                  std::string peer);

  [[nodiscard]] DeviceType type() const override { return DeviceType::kFileSystem; }
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] std::uint64_t features() const override { return features_; }
  [[nodiscard]] std::span<const std::uint16_t> queueSizes() const override { return kQueueSizes; }
  [[nodiscard]] EventLoop& loop() override { return loop_; }
  void readConfig(std::uint32_t offset, std::span<std::byte> data) override;
  void writeConfig(std::uint32_t, std::span<const std::byte>) override {}
  Result<void> activate(Activation activation) override;
  void notify(std::uint16_t queue) override;
  void reset() override;
  void pause() override;
  void resume() override;
  /// The daemon's open files are not part of a snapshot: a restored guest has to mount again.
  void save(StateWriter& writer) const override;
  Result<void> restore(StateReader& reader) override;

 private:
  static constexpr std::size_t kTagBytes = 36;
  /// One for urgent requests, one for all others.
  static constexpr std::array<std::uint16_t, 2> kQueueSizes{128, 512};
  FsDevice(EventLoop& loop, std::string tag, Connector connect, std::string peer);
  Result<void> connect();
  Result<void> start();
  void stop();
  void lost(const Error& error);
  void listen();

  EventLoop& loop_;
  const std::string tag_;
  const std::string name_;
  const Connector connect_;
  const std::string peer_;
  std::uint64_t features_ = 0;
  std::unique_ptr<VhostUserConnection> connection_;
  EventLoop::Watch watch_;
  // While activated.
  const GuestMemory* memory_ = nullptr;
  DriverSignals* signals_ = nullptr;
  std::array<Queue*, 2> queues_{};
  std::uint64_t negotiated_ = 0;
  bool running_ = false;
  bool paused_ = false;
};

}  // namespace tshyve::virtio
