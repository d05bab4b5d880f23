#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "vz/host.h"
#include "vz/plan.h"

namespace tshyve::vz {

/// The seam: what we ask of Virtualization.framework, and what it tells us. `apple/` has the real one, unit tests a
/// scripted one.

/// VZVirtualMachineState.
enum class State {
  kStopped,
  kRunning,
  kPaused,
  kError,
  kStarting,
  kPausing,
  kResuming,
  kStopping,
  kSaving,
  kRestoring,
  kUnknown,  ///< of a macOS after this code was written
};

/// A serial queue: what is posted runs one after the other, never on the thread that posts, and never on the main
/// thread's queue, which nobody serves in a Node process.
class Queue {
 public:
  Queue() = default;
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  virtual ~Queue() = default;
  virtual void post(std::function<void()> work) = 0;
};

using Done = std::function<void(Result<void>)>;

/// What the framework tells of a machine; called on its queue.
class Observer {
 public:
  virtual ~Observer() = default;
  /// The guest powered off.
  virtual void guestStopped() = 0;
  virtual void stoppedWithError(const std::string& description) = 0;
  /// A network interface lost its host side; the machine runs on without.
  virtual void networkDisconnected(const std::string& description) = 0;
  /// The guest connected to a host port that is listened at.
  /// @return true when the connection is taken
  virtual bool guestConnected(std::uint32_t port, UniqueFd connection) = 0;
};

/// A VZVirtualMachine. Every member is called on the queue it was made with, its end as well; every callback comes
/// there.
class FrameworkMachine {
 public:
  FrameworkMachine() = default;
  FrameworkMachine(const FrameworkMachine&) = delete;
  FrameworkMachine& operator=(const FrameworkMachine&) = delete;
  virtual ~FrameworkMachine() = default;

  [[nodiscard]] virtual State state() const = 0;
  virtual void start(Done done) = 0;
  virtual void pause(Done done) = 0;
  virtual void resume(Done done) = 0;
  /// Ends it at once.
  virtual void stop(Done done) = 0;
  /// Presses the power button.
  virtual Result<void> requestStop() = 0;
  virtual void save(const std::string& file, Done done) = 0;
  /// Brings a stopped machine into a saved state; it is paused then.
  virtual void restore(const std::string& file, Done done) = 0;
  /// Connects to a port of the guest.
  virtual void connect(std::uint32_t port, std::function<void(Result<UniqueFd>)> done) = 0;
  /// What must be the same in the machine that is restored; empty before macOS 13.
  [[nodiscard]] virtual std::string identifier() const = 0;
  /// Memory the guest has given back, as we have asked it.
  [[nodiscard]] virtual std::uint64_t balloonBytes() const = 0;
};

/// What a plan leaves open: descriptors and files that are made for one run.
struct Resources {
  std::string kernelImage;  ///< of a LinuxPlan: what the framework boots
  std::string identifier;   ///< of the machine that was saved; empty: a new one
  /// A descriptor for each serial port but those into files, which have -1: where the framework reads and where it
  /// writes. They stay the caller's.
  struct SerialEnds {
    int read = -1;
    int write = -1;
  };
  std::vector<SerialEnds> serialPorts;
  /// Of each network: the connected datagram socket of one with a file handle, else -1.
  std::vector<int> sockets;
  std::vector<std::uint32_t> listenPorts;
};

class Framework {
 public:
  Framework() = default;
  Framework(const Framework&) = delete;
  Framework& operator=(const Framework&) = delete;
  virtual ~Framework() = default;
  virtual HostFacts facts() = 0;
  virtual std::shared_ptr<Queue> makeQueue() = 0;
  /// Builds and validates a machine; runs on the queue. The observer outlives it.
  virtual Result<std::unique_ptr<FrameworkMachine>> build(const Plan& plan, const Resources& resources,
                                                          const std::shared_ptr<Queue>& queue, Observer& observer) = 0;
};

}  // namespace tshyve::vz
