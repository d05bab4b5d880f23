#pragma once

#include <chrono>
#include <string>

namespace tshyve::kvm {

/// What this host's KVM is good for.
struct ProbeResult {
  bool supported = false;      ///< /dev/kvm is there and has the needed capabilities
  bool permitted = false;      ///< this user may use it
  bool hardwareSpeed = false;  ///< guest kernel code runs on the processor, not in an emulator
  double instructionsPerSecond = 0;
  std::string reason;  ///< why it cannot be used, and what to do; empty when it can
  std::chrono::microseconds duration{};

  [[nodiscard]] bool usable() const { return supported && permitted && hardwareSpeed; }
};

/// Runs a loop in 64-bit kernel mode with paging and measures it, within 20 ms. Hosts without nested virtualization may
/// offer a /dev/kvm that emulates guest kernels at one instruction in a thousand: usable by its interface, useless.
ProbeResult probe();

}  // namespace tshyve::kvm
