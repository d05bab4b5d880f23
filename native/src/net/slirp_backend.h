#pragma once

#include <map>

#include "net/frame_backend.h"
#include "net/frame_queue.h"
#include "net/slirp_library.h"

namespace tshyve::net {

/// User-mode network: libslirp turns the guest's connections into sockets of this process. The guest is 10.0.2.15 (by
/// DHCP), the host 10.0.2.2, the name server 10.0.2.3, as with QEMU. libslirp keeps its clock and more in globals: all
/// user-mode networks of a process have to live on one loop.
class SlirpBackend final : public FrameBackend {
 public:
  static Result<std::unique_ptr<SlirpBackend>> create(EventLoop& loop, const UserNetwork& config, Log log);
  ~SlirpBackend() override;

  [[nodiscard]] const Properties& properties() const override { return properties_; }
  [[nodiscard]] bool linkUp() const override { return true; }
  std::size_t send(std::span<const OutgoingFrame> frames) override;
  std::optional<std::size_t> receive(VirtioNetHeader& header, std::span<const iovec> target) override;
  void setReceiving(bool receiving) override { receiving_ = receiving; }
  Result<std::uint16_t> addForward(const ForwardConfig& forward) override;
  Result<void> removeForward(const ForwardConfig& forward) override;

 private:
  /// A timer libslirp asked for.
  struct LibraryTimer {
    std::unique_ptr<EventLoop::Timer> timer;
  };
  struct Polled {
    int fd;
    int events;   ///< SLIRP_POLL_*, asked for
    int revents;  ///< SLIRP_POLL_*, found
  };
  struct ActiveForward {
    ForwardConfig asked;
    std::uint16_t port;
  };
  SlirpBackend(EventLoop& loop, const SlirpLibrary& library, Log log);
  Result<void> prepare(const UserNetwork& config);
  void onSockets();
  void handle();
  void refill();
  void handleSoon();
  void updatePoll(int fd, int events);
  void updateSocketInterest();
  std::vector<int> polledFds();

  // The C callbacks of SlirpCb; `opaque` is the backend.
  static ssize_t sendPacket(const void* buffer, std::size_t length, void* opaque);
  static void guestError(const char* message, void* opaque);
  static std::int64_t clockNanoseconds(void* opaque);
  static void* newTimer(SlirpTimerId id, void* timerOpaque, void* opaque);
  static void freeTimer(void* timer, void* opaque);
  static void modifyTimer(void* timer, std::int64_t expireMilliseconds, void* opaque);
  static void registerFd(int fd, void* opaque);
  static void unregisterFd(int fd, void* opaque);
  static void notify(void* opaque);
  static int addPoll(int fd, int events, void* opaque);
  static int foundEvents(int index, void* opaque);

  EventLoop& loop_;
  const SlirpLibrary library_;
  const Log log_;
  Properties properties_;
  SlirpCb callbacks_{};
  Slirp* slirp_ = nullptr;
  /// libslirp thinks in poll(2) rounds; its sockets sit in an epoll set of their own, which the loop watches as one.
  UniqueFd socketSet_;
  EventLoop::Watch socketWatch_;
  std::map<int, std::uint32_t> registered_;
  std::vector<Polled> polled_;
  std::map<int, std::size_t> polledIndex_;
  std::unique_ptr<EventLoop::Timer> timer_;
  std::int64_t timerDue_ = 0;  ///< in nanoseconds of clockNanoseconds; 0 when not armed
  std::vector<std::unique_ptr<LibraryTimer>> libraryTimers_;
  FrameQueue toGuest_;
  std::vector<std::byte> scratch_;
  std::vector<ActiveForward> forwards_;
  bool receiving_ = false;
  bool socketsPaused_ = false;
  bool handlePending_ = false;
  int guestErrorsLogged_ = 0;
};

}  // namespace tshyve::net
