#include "machine/host_probe.h"

#include "kvm/probe.h"

namespace tshyve {

HostProbe probeHost() {
  const kvm::ProbeResult probe = kvm::probe();
  return {probe.supported, probe.permitted, probe.hardwareSpeed, probe.instructionsPerSecond,
          probe.reason,    probe.duration};
}

}  // namespace tshyve
