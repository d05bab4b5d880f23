#pragma once

#include <napi.h>

#include "base/result.h"
#include "machine/machine_config.h"
#include "net/switch/user_switch.h"

namespace tshyve {

/// Reads a NativeMachineSpec (driver/hypervisor/native/addon.ts). @return kInvalidArgument names the field
Result<MachineConfig> readMachineSpec(Napi::Value value);
/// Reads what NativeAddon.createSwitch takes.
Result<net::UserSwitchSettings> readSwitchSettings(Napi::Value value);
/// Reads a NativeSwitchMachine.
Result<net::UserSwitchMachine> readSwitchMachine(Napi::Value value);
/// Reads a NativeForward.
Result<ForwardConfig> readForward(Napi::Value value);

}  // namespace tshyve
