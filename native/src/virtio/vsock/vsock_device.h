#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "virtio/device.h"
#include "virtio/vsock/connection.h"
#include "virtio/vsock/host_sockets.h"
#include "virtio/vsock/packet.h"

namespace tshyve::virtio {

/// Stream sockets between guest and host (Virtual I/O Device 1.2, section 5.10); the host's ends are unix sockets, see
/// HostSockets.
class VsockDevice final : public Device {
 public:
  /// Makes the listening sockets at once; who connects before the guest is up is turned away.
  static Result<std::unique_ptr<VsockDevice>> create(EventLoop& loop, const VsockConfig& config, Log log);
  ~VsockDevice() override;

  [[nodiscard]] DeviceType type() const override { return DeviceType::kVsock; }
  [[nodiscard]] std::string_view name() const override { return "vsock"; }
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::span<const std::uint16_t> queueSizes() const override;
  [[nodiscard]] EventLoop& loop() override { return loop_; }
  void readConfig(std::uint32_t offset, std::span<std::byte> data) override;
  void writeConfig(std::uint32_t /*offset*/, std::span<const std::byte> /*data*/) override {}
  Result<void> activate(Activation activation) override;
  void notify(std::uint16_t queue) override;
  void reset() override;
  void pause() override;
  void resume() override;
  void save(StateWriter& writer) const override;
  Result<void> restore(StateReader& reader) override;

  /// Any thread.
  [[nodiscard]] std::size_t connectionCount();

 private:
  using Key = VsockConnection::Key;
  struct Active {
    Queue& receive;
    Queue& send;
    Queue& event;
    DriverSignals& signals;
  };

  VsockDevice(EventLoop& loop, const VsockConfig& config, Log log);
  void onClient(HostSockets::Client client);
  void onSocket(const Key& key, std::uint32_t events);
  void onTimer();

  void processSend();
  void handlePacket(const Chain& chain);
  void handleRequest(const VsockHeader& header);
  void handleResponse(VsockConnection& connection);
  void handleData(VsockConnection& connection, const Chain& chain, std::uint32_t length);

  void processReceive();
  enum class Filled { kPacket, kNothing };
  Filled fill(const Chain& chain, std::uint32_t& written);
  Filled fillFrom(VsockConnection& connection, const Chain& chain, std::uint32_t& written);
  Filled fillData(VsockConnection& connection, const Chain& chain, std::uint32_t& written);
  VsockHeader headerFor(VsockConnection& connection, VsockOperation operation) const;

  void processEvents();
  void tellTransportReset();
  void hold();

  VsockConnection* find(const Key& key);
  VsockConnection* add(const Key& key, UniqueFd socket, VsockConnection::State state);
  void remove(const Key& key);
  /// Says something to the guest, as soon as it has a buffer.
  void say(VsockConnection& connection, unsigned pending);
  void enqueue(VsockConnection& connection);
  /// Ends a connection: the guest gets a reset.
  void abort(VsockConnection& connection);
  void sayShutdown(VsockConnection& connection);
  void refuse(const VsockHeader& header);
  void armTimer(std::chrono::steady_clock::time_point deadline);
  void broken(const Error& error);
  [[nodiscard]] bool running() const { return active_.has_value() && !paused_ && !broken_; }
  void processAll();
  void continueLater();

  EventLoop& loop_;
  const VsockConfig config_;
  const Log log_;
  std::unique_ptr<HostSockets> hostSockets_;
  std::unique_ptr<EventLoop::Timer> timer_;
  std::optional<std::chrono::steady_clock::time_point> timerDue_;

  std::optional<Active> active_;
  bool paused_ = false;
  bool broken_ = false;
  bool continuing_ = false;
  std::map<Key, std::unique_ptr<VsockConnection>> connections_;
  /// Connections with something for the guest, each at most once.
  std::deque<Key> ready_;
  /// Answers to packets that belong to no connection.
  std::deque<VsockHeader> resets_;
  std::uint32_t nextHostPort_;

  /// A restored guest has to forget its connections before anything else reaches it.
  bool transportReset_ = false;
  bool transportResetTold_ = false;
  std::optional<std::chrono::steady_clock::time_point> holdUntil_;
  std::deque<Chain> eventBuffers_;

  Chain sendChain_;
  Chain receiveChain_;
  std::vector<iovec> parts_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace tshyve::virtio
