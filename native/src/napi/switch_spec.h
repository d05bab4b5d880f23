#pragma once

#include <napi.h>

#include "base/result.h"
#include "net/switch/user_switch.h"

namespace tshyve {

/// Reads what NativeAddon.createSwitch takes. @return kInvalidArgument names the field
Result<net::UserSwitchSettings> readSwitchSettings(Napi::Value value);
/// Reads a NativeSwitchMachine.
Result<net::UserSwitchMachine> readSwitchMachine(Napi::Value value);

}  // namespace tshyve
