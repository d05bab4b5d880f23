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

  /// @param features agreed on with the driver
  /// @return kNotFound or kPermission where the host has no vhost-net for us, kUnsupported when it lacks a feature
  static Result<std::unique_ptr<VhostNet>> create(EventLoop& loop, const GuestMemory& memory, std::uint64_t features);

  /// From here on the kernel uses the queues. When it fails, they are as they were.
  /// @param takeKick what the driver signals; called last, when all but running out of memory has been ruled out
  /// @param failed when the kernel finds a queue broken; on the loop
  Result<void> start(int tapFd, const std::array<Ring, 2>& rings, const std::function<int(unsigned)>& takeKick,
                     EventLoop::Task failed);
  /// @return how far the queues got; nothing in them is in use any more
  Result<std::array<QueuePosition, 2>> stop();

 private:
  VhostNet(EventLoop& loop, const GuestMemory& memory, UniqueFd fd, EventFd error);
  Result<void> setRing(unsigned index, const Ring& ring);
  Result<void> setFile(unsigned long request, const char* what, unsigned index, int fd);
  Result<void> setBackend(int tapFd);

  EventLoop& loop_;
  const GuestMemory& memory_;
  UniqueFd fd_;
  EventFd error_;
  EventLoop::Watch errorWatch_;
};

}  // namespace tshyve::virtio
