#pragma once

#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "machine/machine_config.h"
#include "net/dhcp_snoop.h"
#include "net/frame_backend.h"
#include "virtio/device.h"
#include "virtio/net/vhost_net.h"

namespace tshyve::virtio {

/// A network interface (Virtual I/O Device 1.2, section 5.1): one pair of queues before a FrameBackend.
///
/// On a tap, vhost-net takes the queues over once the guest has its address (or sends TCP, or 30 s after the driver
/// came up): until then every frame passes here, where a DHCPACK is seen. (A packet socket on the tap would see it too,
/// but takes CAP_NET_RAW, which a machine has no other use for.)
class NetDevice final : public Device, private net::FrameBackend::Listener {
 public:
  struct Callbacks {
    /// A DHCPACK went to the guest, or a snapshot of a guest with an address was resumed. On the device's loop.
    std::function<void(const net::DhcpSnoop::Lease&)> addressAssigned;
    /// The backend's peer went away (false) or is back. On the device's loop.
    std::function<void(bool up)> linkChanged;
    Log log;
  };
  struct Statistics {
    std::uint64_t receivedFrames = 0;  ///< by the guest
    std::uint64_t receivedBytes = 0;
    std::uint64_t receiveDropped = 0;
    std::uint64_t sentFrames = 0;  ///< by the guest
    std::uint64_t sentBytes = 0;
    std::uint64_t sendDropped = 0;
    bool vhost = false;  ///< the kernel moves the frames, and counts them
  };

  /// @param name for logs and snapshots, e.g. `net0`
  static Result<std::unique_ptr<NetDevice>> create(EventLoop& loop, std::string name, const NetworkConfig& config,
                                                   Callbacks callbacks);
  /// With a back end of the caller's, for tests.
  static std::unique_ptr<NetDevice> create(EventLoop& loop, std::string name, const net::MacAddress& mac,
                                           std::unique_ptr<net::FrameBackend> backend, Callbacks callbacks);
  ~NetDevice() override;

  [[nodiscard]] DeviceType type() const override { return DeviceType::kNet; }
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] std::uint64_t features() const override { return features_; }
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

  /// Any thread. @return the host port that is bound
  Result<std::uint16_t> addForward(const ForwardConfig& forward);
  Result<void> removeForward(const ForwardConfig& forward);
  [[nodiscard]] Statistics statistics();

 private:
  /// What is there between activate and reset.
  struct Active {
    const GuestMemory& memory;
    Queue& receive;
    Queue& send;
    DriverSignals& signals;
    std::uint64_t features;
    bool mergeable;
    bool dataValid;           ///< tell the guest that checksums are right
    net::Offloads offloads;   ///< what the guest may ask of sent frames
    std::size_t bufferBytes;  ///< room for the longest frame to be expected, with its header
  };
  enum class Delivery { kDone, kNoBuffers, kBroken };

  NetDevice(EventLoop& loop, std::string name, const net::MacAddress& mac, std::unique_ptr<net::FrameBackend> backend,
            Callbacks callbacks);
  void framesReady() override;
  void sendReady() override;
  void linkChanged() override;

  void processReceive();
  Result<bool> gatherBuffers(std::size_t bytes);
  std::optional<std::size_t> receiveInPlace(net::VirtioNetHeader& header);
  bool fetchBounced();
  Delivery deliverBounced();
  void deliver(net::VirtioNetHeader header, std::size_t length);
  void buildTarget();
  void snoopToGuest(std::size_t length);
  void waitForBuffers();
  void returnBuffers();

  void processSend();
  bool prepareFrame(const Chain& chain, std::size_t index);
  void finishChains(std::size_t count);
  void snoopFromGuest(const net::OutgoingFrame& frame);

  void addressSeen(const net::DhcpSnoop::Lease& lease);
  void handOver();
  void startVhost();
  void stopVhost();
  void takeKicksBack();
  void broken(const Error& error);
  void log(const std::string& line) const;
  [[nodiscard]] bool running() const { return active_.has_value() && !paused_ && !broken_ && !vhostRunning_; }
  void continueLater();

  EventLoop& loop_;
  const std::string name_;
  const net::MacAddress mac_;
  const std::unique_ptr<net::FrameBackend> backend_;
  const Callbacks callbacks_;
  const std::uint64_t features_;
  net::DhcpSnoop snoop_;
  std::optional<net::DhcpSnoop::Lease> lease_;
  bool leaseRestored_ = false;

  std::optional<Active> active_;
  bool paused_ = false;
  bool broken_ = false;

  /// Popped and not yet filled, in order.
  std::deque<Chain> buffers_;
  std::size_t gatheredBytes_ = 0;
  std::size_t gatheredParts_ = 0;
  std::vector<Chain> spareChains_;
  std::vector<iovec> target_;
  std::vector<UsedChain> used_;
  bool starved_ = false;
  /// A frame that came while there was not room for any possible one.
  std::vector<std::byte> bounce_;
  net::VirtioNetHeader bounceHeader_;
  std::size_t bouncedLength_ = 0;

  std::vector<Chain> sendChains_;
  std::vector<net::OutgoingFrame> frames_;
  /// For each of frames_, the chain it came from.
  std::vector<std::size_t> frameChains_;
  std::vector<std::vector<iovec>> frameParts_;
  bool sendBlocked_ = false;
  bool continuing_ = false;

  /// Null where the host has none for us.
  std::unique_ptr<VhostNet> vhost_;
  bool vhostRunning_ = false;
  /// Since the driver came up: the kernel has taken the queues, or could not.
  bool handedOver_ = false;
  bool vhostRefused_ = false;
  /// The driver's signals, taken for vhost; watched here should it have failed after that.
  std::array<int, 2> kickFds_ = {-1, -1};
  std::array<EventLoop::Watch, 2> kickWatches_;
  std::unique_ptr<EventLoop::Timer> vhostTimer_;
  Statistics statistics_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace tshyve::virtio
