#include "vz/host.h"

namespace tshyve::vz {

const char* const kNotEntitled =
    "the program that runs this process has no entitlement com.apple.security.virtualization, so macOS refuses it "
    "virtual machines; a plain node cannot have it. Use tshyve's own executable, signed with the entitlement "
    "(docs/macos.md says how), or the qemu hypervisor";

std::string toText(MacVersion version) {
  return std::to_string(version.major) + (version.minor == 0 ? "" : "." + std::to_string(version.minor));
}

MacVersion properVersion(MacVersion reported) {
  // Between 15 and 26 there was none.
  if (reported.major > 15 && reported.major < 26) reported.major += 10;
  return reported;
}

HostProbe probeFrom(const HostFacts& facts) {
  HostProbe probe;
  probe.supported = facts.version >= kOldest && facts.supported;
  probe.permitted = facts.entitled;
  if (facts.version < kOldest) {
    probe.reason = "this is macOS " + toText(facts.version) + ", and machines need macOS " + toText(kOldest) +
                   " or later: update macOS, or use the qemu hypervisor";
  } else if (!facts.supported) {
    // The one Mac of the last years that says so is itself a virtual machine.
    probe.reason =
        "this Mac has no virtualization to offer; inside of a virtual machine that needs macOS 15 and an M3 or later. "
        "Use the qemu hypervisor";
  } else if (!facts.entitled) {
    probe.reason = kNotEntitled;
  }
  probe.hardwareSpeed = probe.supported && probe.permitted;
  return probe;
}

}  // namespace tshyve::vz
