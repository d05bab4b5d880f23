#pragma once

#include <sys/un.h>

#include <string>

#include "base/result.h"

namespace tshyve::net {

/// The address of a unix socket; an error when the path does not fit (107 bytes on Linux).
Result<sockaddr_un> unixAddress(const std::string& path);

}  // namespace tshyve::net
