#pragma once

#import <Virtualization/Virtualization.h>

#include "vz/framework.h"

namespace tshyve::vz {

/// Makes what a plan says, object by object, and has the framework validate it.
/// @return a retained configuration
Result<VZVirtualMachineConfiguration*> makeConfiguration(const Plan& plan, const Resources& resources);

}  // namespace tshyve::vz
