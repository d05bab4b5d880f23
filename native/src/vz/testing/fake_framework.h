#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "vz/framework.h"

namespace tshyve::vz::testing {

/// A serial queue with a thread of its own, as a dispatch queue has one while it works. Ends on another thread.
class ThreadQueue final : public Queue {
 public:
  ThreadQueue() : thread_([this] { run(); }) {}
  ThreadQueue(const ThreadQueue&) = delete;
  ThreadQueue& operator=(const ThreadQueue&) = delete;
  ~ThreadQueue() override {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  void post(std::function<void()> work) override {
    const std::lock_guard lock(mutex_);
    works_.push_back(std::move(work));
    changed_.notify_all();
  }
  [[nodiscard]] bool isCurrent() const { return thread_.get_id() == std::this_thread::get_id(); }

 private:
  void run() {
    for (;;) {
      std::function<void()> work;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return over_ || !works_.empty(); });
        if (works_.empty()) return;
        work = std::move(works_.front());
        works_.pop_front();
      }
      work();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> works_;
  bool over_ = false;
  std::thread thread_;
};

/// What the scripted framework does when it is asked.
enum class Reply {
  kDone,
  kError,
  kLate,    ///< done after what else is on the queue
  kSilent,  ///< never
};

/// A Virtualization.framework that does as a test says, and notes what it was asked. It has the states and rules of the
/// real one, and breaks off when it is called elsewhere than on its queue, as that does.
class FakeFramework final : public Framework {
 public:
  HostFacts host;
  std::map<std::string, Reply> script;  ///< by call: "start", "pause", ...
  std::string buildError;

  /// All calls so far, in order.
  std::vector<std::string> calls() {
    const std::lock_guard lock(mutex_);
    return calls_;
  }
  /// Waits until what is on the queues has ended, and let go of all it held.
  void drain() {
    for (const auto& queue : queues_) {
      queue_ = queue;
      onQueue([] {});
    }
  }
  /// Runs something in the place of the framework, on the queue, and waits for it.
  void onQueue(const std::function<void()>& work) {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
    queue_->post([&] {
      work();
      const std::lock_guard lock(mutex);
      done = true;
      changed.notify_all();
    });
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return done; });
  }
  /// The guest powers off by itself.
  void powerOff() {
    onQueue([this] {
      state = State::kStopped;
      observer->guestStopped();
    });
  }

  HostFacts facts() override { return host; }
  std::shared_ptr<Queue> makeQueue() override {
    queue_ = std::make_shared<ThreadQueue>();
    queues_.push_back(queue_);
    return queue_;
  }
  Result<std::unique_ptr<FrameworkMachine>> build(const Plan& asked, const Resources& given,
                                                  const std::shared_ptr<Queue>& /*queue*/, Observer& heard) override {
    check();
    note("build");
    if (!buildError.empty()) return Error{ErrorCode::kHost, buildError};
    plan = asked;
    resources = given;
    observer = &heard;
    state = State::kStopped;
    return std::unique_ptr<FrameworkMachine>(std::make_unique<FakeMachine>(*this));
  }

  // The queue's, as the framework's own.
  Plan plan;
  Resources resources;
  Observer* observer = nullptr;
  State state = State::kStopped;
  std::function<Result<UniqueFd>(std::uint32_t)> onConnect;
  std::function<void(const std::string& file)> onSave;

 private:
  class FakeMachine final : public FrameworkMachine {
   public:
    explicit FakeMachine(FakeFramework& framework) : framework_(framework) {}
    FakeMachine(const FakeMachine&) = delete;
    FakeMachine& operator=(const FakeMachine&) = delete;
    ~FakeMachine() override {
      framework_.check();
      framework_.note("release");
    }
    [[nodiscard]] State state() const override {
      framework_.check();
      return framework_.state;
    }
    void start(Done done) override {
      act("start", State::kStopped, State::kStarting, State::kRunning, std::move(done));
    }
    void pause(Done done) override { act("pause", State::kRunning, State::kPausing, State::kPaused, std::move(done)); }
    void resume(Done done) override {
      act("resume", State::kPaused, State::kResuming, State::kRunning, std::move(done));
    }
    void stop(Done done) override { act("stop", framework_.state, State::kStopping, State::kStopped, std::move(done)); }
    Result<void> requestStop() override {
      framework_.check();
      framework_.note("requestStop");
      return {};
    }
    void save(const std::string& file, Done done) override {
      if (framework_.onSave) framework_.onSave(file);
      act("save " + file, State::kPaused, State::kSaving, State::kPaused, std::move(done));
    }
    void restore(const std::string& file, Done done) override {
      act("restore " + file, State::kStopped, State::kRestoring, State::kPaused, std::move(done));
    }
    void connect(std::uint32_t port, std::function<void(Result<UniqueFd>)> done) override {
      framework_.check();
      framework_.note("connect " + std::to_string(port));
      if (framework_.onConnect) {
        done(framework_.onConnect(port));
      } else {
        done(Error{ErrorCode::kHost, "the guest does not listen"});
      }
    }
    [[nodiscard]] std::string identifier() const override {
      framework_.check();
      return framework_.resources.identifier.empty() ? "new identifier" : framework_.resources.identifier;
    }
    [[nodiscard]] std::uint64_t balloonBytes() const override { return 4096; }

   private:
    void act(const std::string& call, State from, State during, State to, Done done) {
      framework_.check();
      framework_.note(call);
      if (framework_.state != from) {
        done(Error{ErrorCode::kHost, "Invalid virtual machine state transition."});
        return;
      }
      const auto found = framework_.script.find(call.substr(0, call.find(' ')));
      const Reply reply = found == framework_.script.end() ? Reply::kDone : found->second;
      framework_.state = during;
      const auto finish = [this, to, done](State) {
        framework_.state = to;
        done({});
      };
      switch (reply) {
        case Reply::kDone:
          finish(to);
          return;
        case Reply::kLate:
          framework_.queue_->post([finish, to] { finish(to); });
          return;
        case Reply::kSilent:
          return;
        case Reply::kError:
          framework_.state = from;
          done(Error{ErrorCode::kHost, "cannot " + call + ": Internal Virtualization error."});
          return;
      }
    }
    FakeFramework& framework_;
  };

  void check() const {
    if (queue_ != nullptr && !queue_->isCurrent()) std::abort();
  }
  void note(const std::string& call) {
    const std::lock_guard lock(mutex_);
    calls_.push_back(call);
  }

  std::mutex mutex_;
  std::vector<std::string> calls_;  // guarded by mutex_
  std::shared_ptr<ThreadQueue> queue_;
  /// A queue must not end in its own work.
  std::vector<std::shared_ptr<ThreadQueue>> queues_;
};

}  // namespace tshyve::vz::testing
