#include "vz/apple/vmnet.h"

// The SDK and the running macOS are two gates.
#if __MAC_OS_X_VERSION_MAX_ALLOWED >= 260000
#define TSHYVE_VMNET_NETWORKS 1
#include <vmnet/vmnet.h>
#endif

namespace tshyve::vz {

bool hasVmnetNetworks() {
#ifdef TSHYVE_VMNET_NETWORKS
  return true;
#else
  return false;
#endif
}

Result<VZNetworkDeviceAttachment*> makeVmnetAttachment(bool hostOnly) {
#ifdef TSHYVE_VMNET_NETWORKS
  if (@available(macOS 26.0, *)) {
    vmnet_return_t status = VMNET_SUCCESS;
    vmnet_network_configuration_ref configuration =
        vmnet_network_configuration_create(hostOnly ? VMNET_HOST_MODE : VMNET_SHARED_MODE, &status);
    if (configuration == nullptr) {
      return Error{ErrorCode::kHost, "macOS makes no network for the machine: vmnet says " + std::to_string(status)};
    }
    vmnet_network_ref network = vmnet_network_create(configuration, &status);
    CFRelease(configuration);
    if (network == nullptr) {
      return Error{ErrorCode::kHost, "macOS makes no network for the machine: vmnet says " + std::to_string(status)};
    }
    VZVmnetNetworkDeviceAttachment* const attachment = [[VZVmnetNetworkDeviceAttachment alloc] initWithNetwork:network];
    // The attachment holds it.
    CFRelease(network);
    return attachment;
  }
#endif
  return Error{ErrorCode::kUnsupported,
               hostOnly ? "there are no host-only networks here" : "there are no vmnet networks here"};
}

}  // namespace tshyve::vz
