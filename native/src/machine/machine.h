#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <variant>

#include "base/result.h"
#include "machine/machine_config.h"

namespace tshyve {

/// Why a machine has ended.
enum class ExitReason {
  kShutdown,  ///< the guest powered off
  kReset,     ///< the guest asked for a restart, or made a triple fault, which resets a PC
  kKilled,    ///< `stop` was called
  kCrashed,   ///< a KVM failure, a device that cannot go on
};

struct ConsoleOutput {
  std::string bytes;
};
/// A DHCPACK passed a network interface on its way to the guest.
struct AddressAssigned {
  std::uint32_t nic;
  std::string mac;
  std::string address;
  std::uint32_t leaseSeconds;
};
/// The peer of a network interface, another program, went away or is back.
struct LinkChanged {
  std::uint32_t nic;
  bool up;
};
struct MachineExited {
  ExitReason reason;
  std::string detail;  ///< a sentence
};
struct MachineLog {
  std::string line;
};
using MachineEvent = std::variant<ConsoleOutput, AddressAssigned, LinkChanged, MachineExited, MachineLog>;
/// Called on threads of the machine; must not block and must not call the machine.
using EventSink = std::function<void(MachineEvent)>;

struct MachineStatistics {
  std::uint64_t exits = 0;
  std::uint64_t balloonBytes = 0;
};

/// A virtual machine. Any thread, one call at a time; calls may take as long as a disk flush.
class Machine {
 public:
  /// Builds everything; the vCPUs wait for `start`.
  static Result<std::unique_ptr<Machine>> create(const MachineConfig& config, EventSink sink);
  /// Builds a machine in the state of a snapshot folder; `start` resumes it.
  static Result<std::unique_ptr<Machine>> restore(const MachineConfig& config, const std::string& snapshotFolder,
                                                  EventSink sink);
  virtual ~Machine() = default;  ///< ends the machine

  virtual Result<void> start() = 0;
  /// After it returns, no vCPU runs and no device touches guest memory.
  virtual Result<void> pause() = 0;
  virtual Result<void> resume() = 0;
  virtual Result<void> pressPowerButton() = 0;
  /// Ends it at once; flushes what the guest has flushed. Possible from any state, repeatable.
  virtual void stop() = 0;
  /// Saves the paused machine into a folder (made if missing).
  virtual Result<void> save(const std::string& snapshotFolder) = 0;
  virtual Result<void> writeConsole(std::span<const std::byte> bytes) = 0;
  /// @return the host port that is bound
  virtual Result<std::uint16_t> addForward(std::uint32_t nic, const ForwardConfig& forward) = 0;
  virtual Result<void> removeForward(std::uint32_t nic, const ForwardConfig& forward) = 0;
  [[nodiscard]] virtual MachineStatistics statistics() const = 0;
};

}  // namespace tshyve
