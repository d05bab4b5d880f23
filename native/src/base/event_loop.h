#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/event_fd.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace tshyve {

/// One thread with an epoll set. A device lives on one loop: everything it does with its queues happens there, so it
/// needs no locks. Functions marked "any thread" may be called from everywhere, all others on the loop's thread only.
class EventLoop {
 public:
  using Callback = std::function<void(std::uint32_t epollEvents)>;
  using Task = std::function<void()>;

  /// Stops watching a descriptor when it is destroyed (on the loop's thread).
  class Watch {
   public:
    Watch() = default;
    Watch(Watch&& other) noexcept;
    Watch& operator=(Watch&& other) noexcept;
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;
    ~Watch();
    /// Changes the events that are waited for (EPOLLIN, EPOLLOUT, 0 for none).
    void setEvents(std::uint32_t epollEvents);
    void reset();
    [[nodiscard]] bool active() const { return loop_ != nullptr; }

   private:
    friend class EventLoop;
    Watch(EventLoop* loop, std::uint64_t id) : loop_(loop), id_(id) {}
    EventLoop* loop_ = nullptr;
    std::uint64_t id_ = 0;
  };

  /// Fires once after it was armed, until it is armed again; disarmed when it is destroyed.
  class Timer {
   public:
    /// @param fire runs on the loop's thread
    static Result<std::unique_ptr<Timer>> create(EventLoop& loop, Task fire);
    void arm(std::chrono::nanoseconds delay);
    void disarm();

   private:
    Timer() = default;
    UniqueFd fd_;
    Watch watch_;
  };

  /// @param name of the thread, at most 15 bytes
  static Result<std::unique_ptr<EventLoop>> create(std::string name);
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;
  /// Stops the thread.
  ~EventLoop();

  /// Starts the thread. Without it the loop is driven by `runOnce`, as tests and fuzzers do.
  void start();
  /// Any thread but the loop's own: ends the thread after the tasks posted so far.
  void stop();
  /// Handles what is ready, waiting at most this long for something. For loops without a thread.
  /// @return the number of callbacks and tasks that ran
  int runOnce(std::chrono::milliseconds timeout);

  /// Any thread: runs the task on the loop's thread, soon.
  void post(Task task);
  /// Any thread: runs the task on the loop's thread and waits until it has run. At once when already there, or when the
  /// loop has no thread.
  void runSync(const Task& task);
  /// Any thread.
  [[nodiscard]] bool isCurrent() const;

  /// @param fd stays the caller's and must outlive the watch
  Result<Watch> watch(int fd, std::uint32_t epollEvents, Callback callback);

 private:
  struct Watched {
    int fd;
    std::shared_ptr<Callback> callback;
  };
  EventLoop(std::string name, UniqueFd epoll, EventFd wake);
  void unwatch(std::uint64_t id);
  void modify(std::uint64_t id, std::uint32_t epollEvents);
  int runTasks();

  const std::string name_;
  UniqueFd epoll_;
  EventFd wake_;
  std::map<std::uint64_t, Watched> watched_;
  std::uint64_t nextId_ = 1;
  std::mutex mutex_;
  std::vector<Task> tasks_;  // guarded by mutex_
  std::atomic<bool> stopping_{false};
  std::atomic<std::thread::id> threadId_{};
  std::thread thread_;
};

}  // namespace tshyve
