#include "base/event_loop.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <array>
#include <csignal>

namespace tshyve {
namespace {

constexpr std::uint64_t kWakeId = 0;

epoll_event interest(std::uint32_t events, std::uint64_t id) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = id;
  return event;
}

}  // namespace

EventLoop::Watch::Watch(Watch&& other) noexcept : loop_(std::exchange(other.loop_, nullptr)), id_(other.id_) {}

EventLoop::Watch& EventLoop::Watch::operator=(Watch&& other) noexcept {
  if (this != &other) {
    reset();
    loop_ = std::exchange(other.loop_, nullptr);
    id_ = other.id_;
  }
  return *this;
}

EventLoop::Watch::~Watch() { reset(); }

void EventLoop::Watch::setEvents(std::uint32_t epollEvents) {
  if (loop_ != nullptr) loop_->modify(id_, epollEvents);
}

void EventLoop::Watch::reset() {
  if (loop_ != nullptr) std::exchange(loop_, nullptr)->unwatch(id_);
}

Result<std::unique_ptr<EventLoop::Timer>> EventLoop::Timer::create(EventLoop& loop, Task fire) {
  std::unique_ptr<Timer> timer(new Timer());
  timer->fd_.reset(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!timer->fd_) return Error::fromErrno("timerfd_create");
  const int fd = timer->fd_.get();
  TSHYVE_TRY(timer->watch_, loop.watch(fd, EPOLLIN, [fd, fire = std::move(fire)](std::uint32_t) {
    std::uint64_t expirations = 0;
    if (::read(fd, &expirations, sizeof expirations) == sizeof expirations) fire();
  }));
  return timer;
}

void EventLoop::Timer::arm(std::chrono::nanoseconds delay) {
  // A zero value would disarm.
  const auto count = std::max<std::int64_t>(delay.count(), 1);
  itimerspec when{};
  when.it_value.tv_sec = count / 1'000'000'000;
  when.it_value.tv_nsec = count % 1'000'000'000;
  ::timerfd_settime(fd_.get(), 0, &when, nullptr);
}

void EventLoop::Timer::disarm() {
  const itimerspec never{};
  ::timerfd_settime(fd_.get(), 0, &never, nullptr);
}

Result<std::unique_ptr<EventLoop>> EventLoop::create(std::string name) {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return Error::fromErrno("epoll_create1");
  TSHYVE_TRY(EventFd wake, EventFd::create());
  epoll_event event = interest(EPOLLIN, kWakeId);
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.fd(), &event) != 0) return Error::fromErrno("epoll_ctl");
  return std::unique_ptr<EventLoop>(new EventLoop(std::move(name), std::move(epoll), std::move(wake)));
}

EventLoop::EventLoop(std::string name, UniqueFd epoll, EventFd wake)
    : name_(std::move(name)), epoll_(std::move(epoll)), wake_(std::move(wake)) {}

EventLoop::~EventLoop() { stop(); }

void EventLoop::start() {
  // Signals are for the threads that expect them (vCPU kicks, Node's own): none may land here.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] {
    threadId_ = std::this_thread::get_id();
    pthread_setname_np(pthread_self(), name_.substr(0, 15).c_str());
    while (!stopping_) runOnce(std::chrono::milliseconds(-1));
    runTasks();
    threadId_ = std::thread::id();
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void EventLoop::stop() {
  if (!thread_.joinable()) return;
  stopping_ = true;
  wake_.signal();
  thread_.join();
}

int EventLoop::runOnce(std::chrono::milliseconds timeout) {
  std::array<epoll_event, 32> events;
  const int count =
      ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), static_cast<int>(timeout.count()));
  int ran = 0;
  for (int index = 0; index < count; index++) {
    const epoll_event& event = events[static_cast<std::size_t>(index)];
    // The structure is packed on x86: no reference may be bound to its members.
    const std::uint64_t id = event.data.u64;
    if (id == kWakeId) {
      wake_.drain();
      continue;
    }
    // An earlier callback of this round may have ended this watch.
    const auto found = watched_.find(id);
    if (found == watched_.end()) continue;
    // The callback may end its own watch while it runs.
    const std::shared_ptr<Callback> callback = found->second.callback;
    (*callback)(event.events);
    ran++;
  }
  return ran + runTasks();
}

int EventLoop::runTasks() {
  std::vector<Task> tasks;
  {
    const std::lock_guard lock(mutex_);
    tasks.swap(tasks_);
  }
  for (const Task& task : tasks) task();
  return static_cast<int>(tasks.size());
}

void EventLoop::post(Task task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  wake_.signal();
}

void EventLoop::runSync(const Task& task) {
  if (!thread_.joinable() || isCurrent()) {
    task();
    return;
  }
  std::mutex mutex;
  std::condition_variable condition;
  bool done = false;
  post([&] {
    task();
    const std::lock_guard lock(mutex);
    done = true;
    condition.notify_one();
  });
  std::unique_lock lock(mutex);
  condition.wait(lock, [&] { return done; });
}

bool EventLoop::isCurrent() const { return threadId_.load() == std::this_thread::get_id(); }

Result<EventLoop::Watch> EventLoop::watch(int fd, std::uint32_t epollEvents, Callback callback) {
  const std::uint64_t id = nextId_++;
  epoll_event event = interest(epollEvents, id);
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return Error::fromErrno("epoll_ctl");
  watched_.emplace(id, Watched{fd, std::make_shared<Callback>(std::move(callback))});
  return Watch(this, id);
}

void EventLoop::modify(std::uint64_t id, std::uint32_t epollEvents) {
  const auto found = watched_.find(id);
  if (found == watched_.end()) return;
  epoll_event event = interest(epollEvents, id);
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, found->second.fd, &event);
}

void EventLoop::unwatch(std::uint64_t id) {
  const auto found = watched_.find(id);
  if (found == watched_.end()) return;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, found->second.fd, nullptr);
  watched_.erase(found);
}

}  // namespace tshyve
