#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

#include "machine/machine.h"

namespace tshyve {

/// Events of a machine on their way to a consumer that may be slow. The guest decides how much it prints and how often
/// it asks for a lease, so the queue is bounded: console output is joined and cut, an address replaces the one before
/// of its interface and MAC, the state of a link the one before. The end of the machine is never lost. Any thread.
class EventQueue {
 public:
  static constexpr std::size_t kMaxConsoleBytes = std::size_t{1} << 20;
  static constexpr std::size_t kMaxLogLines = 256;
  /// A guest that floods its console must not flood the log with complaints about it.
  static constexpr std::chrono::seconds kNoteInterval{10};

  /// @return true when the queue was empty: the consumer must be woken
  bool push(MachineEvent event);
  /// All events so far, in order; what was dropped is said in a last log line, now and then and at the machine's end.
  std::vector<MachineEvent> take();

 private:
  void pushConsole(ConsoleOutput output);
  void pushAddress(AddressAssigned address);
  void pushLink(const LinkChanged& link);

  std::mutex mutex_;
  std::deque<MachineEvent> events_;  // guarded by mutex_, as all below
  std::size_t consoleBytes_ = 0;
  std::size_t logLines_ = 0;
  std::uint64_t droppedBytes_ = 0;
  std::uint64_t droppedLines_ = 0;
  std::chrono::steady_clock::time_point nextNote_{};
};

}  // namespace tshyve
