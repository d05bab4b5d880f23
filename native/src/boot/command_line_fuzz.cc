#include <cstdlib>
#include <string>

#include "boot/command_line.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace tshyve::boot;
  const std::string given(reinterpret_cast<const char*>(data), size);
  const auto line = guestCommandLine(given, 2047);
  if (!line) return 0;
  // Whatever the user wrote, the result says how to reboot, once, and keeps all of what was written.
  if (!hasKernelParameter(*line, "reboot=")) std::abort();
  if (line->size() > 2047 || line->size() < given.size()) std::abort();
  const auto again = guestCommandLine(*line, 2047);
  if (!again || *again != *line) std::abort();
  return 0;
}
