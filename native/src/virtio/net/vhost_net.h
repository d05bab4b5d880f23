#pragma once

#include <array>
#include <functional>
#include <memory>

#include "base/event_fd.h"
#include "base/event_loop.h"
#include "memory/guest_memory.h"
#include "virtio/queue.h"

namespace tshyve::virtio {

/// The kernel's data path between a tap and a pair of queues (linux/vhost.h).
class VhostNet {
 public:
  /// One of the queues: 0 receives, 1 sends.
  struct Ring {
    QueueLayout layout;
    QueuePosition position;
    int interruptFd = -1;
  };

  /// Opens the device, as long as the process may.
  /// @return kNotFound or kPermission where the host has no vhost-net for us
  static Result<std::unique_ptr<VhostNet>> open(EventLoop& loop);

  /// From here on the kernel uses the queues. When it fails, they are as they were.
  /// @param memory must outlive the next `stop`
  /// @param features agreed on with the driver
  /// @param takeKick what the driver signals; called last, when all but running out of memory has been ruled out
  /// @param failed when the kernel finds a queue broken; on the loop
  Result<void> start(const GuestMemory& memory, std::uint64_t features, int tapFd, const std::array<Ring, 2>& rings,
                     const std::function<int(unsigned)>& takeKick, EventLoop::Task failed);
  /// @return how far the queues got; nothing in them is in use any more
  Result<std::array<QueuePosition, 2>> stop();

 private:
  VhostNet(EventLoop& loop, UniqueFd fd, EventFd error);
  Result<void> prepare(const GuestMemory& memory, std::uint64_t features);
  Result<void> setRing(const GuestMemory& memory, unsigned index, const Ring& ring);
  Result<void> setFile(unsigned long request, const char* what, unsigned index, int fd);
  Result<void> setBackend(int tapFd);

  EventLoop& loop_;
  UniqueFd fd_;
  bool owned_ = false;
  EventFd error_;
  EventLoop::Watch errorWatch_;
};

}  // namespace tshyve::virtio
