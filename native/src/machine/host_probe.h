#pragma once

#include <chrono>
#include <string>

namespace tshyve {

/// What this host's hypervisor interface is good for: KVM, or Virtualization.framework.
struct HostProbe {
  bool supported = false;            ///< it is there and has the needed capabilities
  bool permitted = false;            ///< this process may use it
  bool hardwareSpeed = false;        ///< guest kernel code runs on the processor, not in an emulator
  double instructionsPerSecond = 0;  ///< of guest kernel code; 0 when none ran
  std::string reason;                ///< why it cannot be used, and what to do; empty when it can
  std::chrono::microseconds duration{};
};

/// Looks at this host; takes at most 20 ms.
HostProbe probeHost();

}  // namespace tshyve
