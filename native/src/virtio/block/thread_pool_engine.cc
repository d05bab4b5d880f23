#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/event_fd.h"
#include "virtio/block/io_engine.h"

namespace tshyve::virtio {
namespace {

/// A disk gains little from more: the page cache answers most, and the rest queues in the kernel.
constexpr std::size_t kThreads = 4;

std::int64_t perform(int fd, const IoOperation& operation) {
  const auto offset = static_cast<off_t>(operation.offset);
  const auto length = static_cast<off_t>(operation.length);
  const auto count = static_cast<int>(operation.buffers.size());
  switch (operation.kind) {
    case IoOperation::Kind::kRead:
      return ::preadv(fd, operation.buffers.data(), count, offset);
    case IoOperation::Kind::kWrite:
      return ::pwritev2(fd, operation.buffers.data(), count, offset, operation.durable ? RWF_DSYNC : 0);
    case IoOperation::Kind::kFlush:
      return ::fdatasync(fd);
    case IoOperation::Kind::kPunchHole:
      return ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
    case IoOperation::Kind::kZeroRange:
      return ::fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
  }
  return -1;
}

class ThreadPoolEngine final : public IoEngine {
 public:
  ThreadPoolEngine(int fd, EventFd completion) : fd_(fd), completion_(std::move(completion)) {}
  ThreadPoolEngine(const ThreadPoolEngine&) = delete;
  ThreadPoolEngine& operator=(const ThreadPoolEngine&) = delete;
  ~ThreadPoolEngine() override {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    offered_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  [[nodiscard]] const char* name() const override { return "threads"; }

  void submit(IoOperation& operation) override {
    if (threads_.empty()) startThreads();
    {
      const std::lock_guard lock(mutex_);
      underWay_++;
      if (threads_.empty()) {
        operation.result = -EAGAIN;
        finish(operation);
        return;
      }
      waiting_.push_back(&operation);
    }
    offered_.notify_one();
  }

  void flush() override {}

  void reap(std::vector<IoOperation*>& done, bool wait) override {
    std::unique_lock lock(mutex_);
    if (wait) finished_.wait(lock, [this] { return !done_.empty() || underWay_ == 0; });
    completion_.drain();
    underWay_ -= done_.size();
    done.insert(done.end(), done_.begin(), done_.end());
    done_.clear();
  }

  [[nodiscard]] int completionFd() const override { return completion_.fd(); }

 private:
  /// At the first operation, and so by a thread that is confined already: those that it starts are confined as it is.
  void startThreads() {
    // Signals are for the threads that expect them.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      while (threads_.size() < kThreads) threads_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
      // Too many processes on this host: fewer will do, and without any the operation fails.
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  /// With mutex_ held.
  void finish(IoOperation& operation) {
    done_.push_back(&operation);
    if (done_.size() > 1) return;
    completion_.signal();
    finished_.notify_one();
  }

  void work() {
    pthread_setname_np(pthread_self(), "disk-io");
    std::unique_lock lock(mutex_);
    for (;;) {
      offered_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      IoOperation* operation = waiting_.front();
      waiting_.pop_front();
      lock.unlock();
      const std::int64_t result = perform(fd_, *operation);
      operation->result = result < 0 ? -errno : result;
      lock.lock();
      finish(*operation);
    }
  }

  const int fd_;
  EventFd completion_;
  std::mutex mutex_;
  std::condition_variable offered_;
  std::condition_variable finished_;
  std::deque<IoOperation*> waiting_;  // guarded by mutex_, as all below
  std::vector<IoOperation*> done_;
  std::size_t underWay_ = 0;
  bool ending_ = false;
  std::vector<std::thread> threads_;  // the submitter's
};

}  // namespace

Result<std::unique_ptr<IoEngine>> makeThreadPoolEngine(int fd) {
  TSHYVE_TRY(EventFd completion, EventFd::create());
  return std::unique_ptr<IoEngine>(std::make_unique<ThreadPoolEngine>(fd, std::move(completion)));
}

Result<std::unique_ptr<IoEngine>> makeIoEngine(int fd, std::uint16_t depth) {
  if (auto uring = makeIoUringEngine(fd, depth)) return uring;
  return makeThreadPoolEngine(fd);
}

}  // namespace tshyve::virtio
