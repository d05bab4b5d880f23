#include "base/event_fd.h"

#include <sys/eventfd.h>

namespace tshyve {

Result<EventFd> EventFd::create() {
  UniqueFd fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!fd) return Error::fromErrno("eventfd");
  return EventFd(std::move(fd));
}

void EventFd::signal() const {
  const std::uint64_t one = 1;
  // EAGAIN means the counter is full: the other side has not been woken for 2^64 signals, and will be.
  while (::write(fd_.get(), &one, sizeof one) < 0 && errno == EINTR) {
  }
}

std::uint64_t EventFd::drain() const {
  std::uint64_t count = 0;
  for (;;) {
    if (::read(fd_.get(), &count, sizeof count) == sizeof count) return count;
    if (errno != EINTR) return 0;
  }
}

}  // namespace tshyve
