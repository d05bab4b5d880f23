#pragma once

#include <napi.h>

namespace tshyve {

/// What belongs to one JavaScript environment.
struct AddonData {
  Napi::FunctionReference machineClass;
  Napi::FunctionReference switchClass;
};

}  // namespace tshyve
