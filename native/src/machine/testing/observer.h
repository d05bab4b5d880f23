#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "machine/machine.h"

namespace tshyve::testing {

/// Collects a machine's events and waits for them. Must outlive the machine.
class Observer {
 public:
  [[nodiscard]] EventSink sink() {
    return [this](MachineEvent event) {
      const std::lock_guard lock(mutex_);
      if (auto* output = std::get_if<ConsoleOutput>(&event)) console_ += output->bytes;
      if (auto* exited = std::get_if<MachineExited>(&event)) exits_.push_back(std::move(*exited));
      changed_.notify_all();
    };
  }

  [[nodiscard]] std::string console() {
    const std::lock_guard lock(mutex_);
    return console_;
  }
  [[nodiscard]] std::size_t exitCount() {
    const std::lock_guard lock(mutex_);
    return exits_.size();
  }
  /// @return false when the console does not show it in time
  bool waitForConsole(const std::string& text, std::chrono::seconds timeout = std::chrono::seconds(60)) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, [&] { return console_.find(text) != std::string::npos; });
  }
  std::optional<MachineExited> waitForExit(std::chrono::seconds timeout = std::chrono::seconds(60)) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, timeout, [&] { return !exits_.empty(); })) return std::nullopt;
    return exits_.front();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string console_;
  std::vector<MachineExited> exits_;
};

}  // namespace tshyve::testing
