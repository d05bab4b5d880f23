#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/result.h"
#include "machine/machine_config.h"
#include "net/ethernet.h"
#include "net/virtio_net_header.h"

namespace tshyve::net {

/// A frame on its way out: its bytes may lie in guest memory and change while they are read.
struct OutgoingFrame {
  VirtioNetHeader header;
  std::span<const iovec> data;
  std::size_t length = 0;  ///< sum of `data`
};

/// The host side of a network interface: something Ethernet frames go to and come from. Lives on one event loop; all
/// calls come on its thread.
class FrameBackend {
 public:
  /// Called from the event loop, never from within a call of the backend's.
  class Listener {
   public:
    virtual ~Listener() = default;
    /// `receive` has something.
    virtual void framesReady() = 0;
    /// `send` takes frames again after it took fewer than it was given.
    virtual void sendReady() = 0;
    /// The peer went away or came back.
    virtual void linkChanged() = 0;
  };
  struct Properties {
    std::uint16_t mtu = 0;  ///< 0: not known
    /// Work the backend takes over for sent frames and may leave undone in received ones.
    Offloads offloads;
    /// Received frames never have wrong checksums: the guest need not verify them.
    bool checksumsValid = false;
    /// The address the peer insists on.
    std::optional<MacAddress> mac;
    /// A tap that vhost-net may drive, or -1.
    int vhostFd = -1;
  };
  struct Counters {
    std::uint64_t sendDropped = 0;     ///< peer gone or refusing, frame too long
    std::uint64_t receiveDropped = 0;  ///< frame too long for the buffers, or more than may be kept
  };

  virtual ~FrameBackend() = default;

  [[nodiscard]] virtual const Properties& properties() const = 0;
  [[nodiscard]] virtual bool linkUp() const = 0;
  [[nodiscard]] const Counters& counters() const { return counters_; }

  /// Starts to deliver events; null stops.
  void setListener(Listener* listener) { listener_ = listener; }

  /// What the guest is ready to get in received frames; a subset of the offered offloads.
  virtual Result<void> setReceiveOffloads(const Offloads& offloads) {
    if (offloads == Offloads{}) return {};
    return Error{ErrorCode::kUnsupported, "this network has no offloads"};
  }

  /// Sends frames in order. A frame that cannot be sent at all counts as taken (and dropped).
  /// @return how many were taken; fewer than given means that the peer is slow: wait for `sendReady`. When the call
  /// returns, taken frames need their memory no more
  virtual std::size_t send(std::span<const OutgoingFrame> frames) = 0;

  /// Takes the next frame into `target`. A frame longer than the target is dropped.
  /// @return its length; nothing when there is none
  virtual std::optional<std::size_t> receive(VirtioNetHeader& header, std::span<const iovec> target) = 0;

  /// False, as at the start, while there is nowhere to put frames: no `framesReady`, and the peer feels it.
  virtual void setReceiving(bool receiving) = 0;

  /// @return the host port that is bound
  virtual Result<std::uint16_t> addForward(const ForwardConfig&) { return noForwards(); }
  virtual Result<void> removeForward(const ForwardConfig&) { return noForwards(); }

 protected:
  [[nodiscard]] Listener* listener() const { return listener_; }
  /// Runs a task on the loop after the current callback, unless the backend is gone by then.
  void defer(EventLoop& loop, EventLoop::Task task) {
    loop.post([alive = std::weak_ptr<bool>(alive_), task = std::move(task)] {
      if (!alive.expired()) task();
    });
  }
  Counters counters_;

 private:
  static Error noForwards() {
    return {ErrorCode::kUnsupported,
            "ports can be forwarded on user-mode networks only; reach the guest's own address"};
  }
  Listener* listener_ = nullptr;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

/// Opens the host side of a network interface. On the loop's thread, or before the loop has one.
Result<std::unique_ptr<FrameBackend>> createBackend(EventLoop& loop, const NetworkConfig& config, Log log);

}  // namespace tshyve::net
