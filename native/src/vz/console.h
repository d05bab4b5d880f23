#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tshyve::vz {

/// Our end of the guest's first serial port: two pipes and a thread that reads what the guest prints.
class Console {
 public:
  /// @param onOutput called on the console's thread, and once more at its end
  static Result<std::unique_ptr<Console>> create(std::function<void(std::string)> onOutput);
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;
  ~Console() { finish(); }

  /// The framework's ends; valid until `finish`.
  [[nodiscard]] int guestRead() const { return toGuestRead_.get(); }
  [[nodiscard]] int guestWrite() const { return fromGuestWrite_.get(); }

  /// Gives bytes to the guest. kBusy when it does not read them.
  Result<void> write(std::span<const std::byte> bytes);
  /// Hands out all that the guest has printed so far and ends; repeatable. Not on the console's own thread.
  void finish();

 private:
  Console() = default;
  void run();
  /// @return false at the end of the pipe
  bool drain();

  std::function<void(std::string)> onOutput_;
  UniqueFd toGuestRead_, toGuestWrite_, fromGuestRead_, fromGuestWrite_, wakeRead_, wakeWrite_;
  std::thread thread_;
};

}  // namespace tshyve::vz
