#pragma once

#include <napi.h>

namespace tshyve {

/// Adds the class of machines to this environment, and `create` and `restore` to the addon's exports.
void defineMachines(Napi::Env env, Napi::Object exports);

}  // namespace tshyve
