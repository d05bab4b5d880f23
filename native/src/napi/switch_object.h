#pragma once

#include <napi.h>

namespace tshyve {

/// Adds the class of user-mode networks to this environment, and `createSwitch` to the addon's exports.
void defineSwitches(Napi::Env env, Napi::Object exports);

}  // namespace tshyve
