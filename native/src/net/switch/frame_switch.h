#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "net/frame_backend.h"
#include "net/frame_queue.h"

namespace tshyve::net {

/// An Ethernet switch in user space. Its ports are machines, each with one MAC address that it cannot change, and an
/// uplink that has all the others. Lives on one event loop with its ports.
class FrameSwitch {
 public:
  /// Looks at each frame a machine sends before it goes anywhere. @return true when the frame is dealt with; frames put
  /// into `answers` go back to the machine
  using Interceptor =
      std::function<bool(std::span<const std::byte> frame, std::vector<std::vector<std::byte>>& answers)>;
  struct Counters {
    std::uint64_t forwarded = 0;
    std::uint64_t spoofed = 0;  ///< from a machine, with a source address that is not its own
    std::uint64_t dropped = 0;  ///< for a machine that does not take its frames
  };

  FrameSwitch(EventLoop& loop, std::unique_ptr<FrameBackend> uplink, Interceptor interceptor);
  FrameSwitch(const FrameSwitch&) = delete;
  FrameSwitch& operator=(const FrameSwitch&) = delete;
  ~FrameSwitch();

  [[nodiscard]] FrameBackend& uplink() { return *uplink_->backend; }
  /// An address that is in use already is an error.
  Result<void> addMachine(const MacAddress& mac, std::unique_ptr<FrameBackend> backend);
  /// Fine when it is not there.
  void removeMachine(const MacAddress& mac);
  [[nodiscard]] const Counters& counters() const { return counters_; }

 private:
  class Port final : public FrameBackend::Listener {
   public:
    Port(FrameSwitch& owner, std::unique_ptr<FrameBackend> frames, std::optional<MacAddress> address);
    ~Port() override;
    void framesReady() override;
    void sendReady() override;
    void linkChanged() override {}
    /// Sends, or keeps a bounded amount for later. @return false when it was dropped
    bool deliver(std::span<const std::byte> frame);

    FrameSwitch& owner;
    const std::unique_ptr<FrameBackend> backend;
    /// Nothing for the uplink.
    const std::optional<MacAddress> mac;
    FrameQueue waiting;
  };

  void forward(Port& from, std::span<const std::byte> frame);
  void deliver(Port& to, std::span<const std::byte> frame);

  EventLoop& loop_;
  const Interceptor interceptor_;
  std::unique_ptr<Port> uplink_;
  std::map<MacAddress, std::unique_ptr<Port>> machines_;
  std::vector<std::byte> scratch_;
  std::vector<std::vector<std::byte>> answers_;
  Counters counters_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace tshyve::net
