#pragma once

#include <cstdint>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tshyve {

/// An eventfd(2), non-blocking, close-on-exec.
class EventFd {
 public:
  static Result<EventFd> create();

  [[nodiscard]] int fd() const { return fd_.get(); }
  /// Thread-safe and signal-safe.
  void signal() const;
  /// @return how often it was signalled since the last drain
  std::uint64_t drain() const;

 private:
  explicit EventFd(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace tshyve
