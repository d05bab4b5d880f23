#pragma once

#include <functional>
#include <string>

namespace tshyve {

/// Takes one line, without its end, that helps whoever runs the machine. Any thread; must not block. May be empty.
using Log = std::function<void(std::string line)>;

}  // namespace tshyve
