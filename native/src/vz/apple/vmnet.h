#pragma once

#import <Virtualization/Virtualization.h>

#include "base/result.h"

namespace tshyve::vz {

/// True when this was built with an SDK that knows networks of one's own (macOS 26).
bool hasVmnetNetworks();
/// A new network; it ends with this process.
Result<VZNetworkDeviceAttachment*> makeVmnetAttachment(bool hostOnly);

}  // namespace tshyve::vz
