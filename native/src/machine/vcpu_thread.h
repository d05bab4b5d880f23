#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/result.h"
#include "bus/bus.h"
#include "kvm/vcpu.h"

namespace tshyve {

/// Why guest execution ends, seen from a vCPU.
struct VcpuEnd {
  bool crashed;        ///< false: the guest asked for a reset
  std::string detail;  ///< a sentence
};

/// Runs one vCPU on a thread of its own and carries its port and memory accesses to the buses.
class VcpuThread {
 public:
  struct Environment {
    const Bus& ports;
    const Bus& memory;
    /// Set by whoever ends the guest; no vCPU enters the guest again then.
    const std::atomic<bool>& ended;
    /// Called on the vCPU's thread when the guest cannot go on.
    std::function<void(VcpuEnd)> onEnd;
    /// Called on the vCPU's thread before it enters the guest for the first time.
    std::function<Result<void>()> confine;
  };

  /// The thread starts paused.
  VcpuThread(std::unique_ptr<kvm::Vcpu> vcpu, Environment environment);
  VcpuThread(const VcpuThread&) = delete;
  VcpuThread& operator=(const VcpuThread&) = delete;
  ~VcpuThread();

  void resume();
  /// Asks the vCPU to leave the guest; `waitPaused` returns when it has, with no access of its pending.
  void requestPause();
  void waitPaused();
  /// Ends the thread; repeatable.
  void stop();

  /// For use while paused.
  [[nodiscard]] kvm::Vcpu& vcpu() { return *vcpu_; }
  [[nodiscard]] std::uint64_t exits() const { return exits_.load(std::memory_order_relaxed); }

 private:
  enum class Command { kPause, kRun, kStop };
  void run();
  /// @return false when the thread shall end
  bool obeyCommand();
  void handle(const kvm::Exit& exit);
  void give(Command command);
  void end(bool crashed, std::string detail);

  std::unique_ptr<kvm::Vcpu> vcpu_;
  const Environment environment_;
  std::atomic<std::uint64_t> exits_{0};
  bool confined_ = false;  // the thread's own
  bool failed_ = false;    // the thread's own
  std::mutex mutex_;
  std::condition_variable condition_;
  Command command_ = Command::kPause;  // guarded by mutex_
  bool paused_ = false;                // guarded by mutex_
  std::thread thread_;
};

}  // namespace tshyve
