#pragma once

#include <napi.h>

#include "base/result.h"
#include "machine/machine_config.h"

namespace tshyve {

/// Reads a NativeMachineSpec (driver/hypervisor/native/addon.ts). @return kInvalidArgument names the field
Result<MachineConfig> readMachineSpec(Napi::Value value);
/// Reads a NativeForward.
Result<ForwardConfig> readForward(Napi::Value value);

}  // namespace tshyve
