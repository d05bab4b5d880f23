#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tshyve::boot {

/// True when the kernel (not init, whose arguments follow `--`) is given this parameter. @param key with its `=`
bool hasKernelParameter(std::string_view commandLine, std::string_view key);

/// The line as the guest gets it: with `reboot=a` unless it has a `reboot=`.
/// @param limit most bytes the kernel reads, without the terminating NUL
/// @return an error when it is too long or has a NUL in it
Result<std::string> guestCommandLine(std::string_view commandLine, std::uint64_t limit);

}  // namespace tshyve::boot
