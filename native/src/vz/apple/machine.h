#pragma once

#import <Virtualization/Virtualization.h>

#include <memory>

#include "vz/framework.h"

namespace tshyve::vz {

/// Makes the VZVirtualMachine of a configuration; runs on the queue.
std::unique_ptr<FrameworkMachine> makeFrameworkMachine(VZVirtualMachineConfiguration* configuration,
                                                       const std::vector<std::uint32_t>& listenPorts,
                                                       dispatch_queue_t queue, Observer& observer);

}  // namespace tshyve::vz
