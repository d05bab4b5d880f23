#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "machine/host_probe.h"

namespace tshyve::vz {

/// A version of macOS, e.g. 12.3.
struct MacVersion {
  int major = 0;
  int minor = 0;
  auto operator<=>(const MacVersion&) const = default;
};
std::string toText(MacVersion version);
/// The version as Apple names it: to programs of older SDKs, macOS 26 and 27 call themselves 16 and 17.
MacVersion properVersion(MacVersion reported);

enum class Processor { kArm64, kX86 };
enum class Rosetta { kNotSupported, kNotInstalled, kInstalled };

/// What this Mac and this process may do; what the framework's class properties say.
struct HostFacts {
  MacVersion version;
  Processor processor = Processor::kArm64;
  bool supported = false;  ///< VZVirtualMachine.supported
  bool entitled = false;   ///< the executable of this process has com.apple.security.virtualization
  bool nestedVirtualization = false;
  Rosetta rosetta = Rosetta::kNotSupported;
  bool vmnet = false;  ///< built with an SDK that knows vmnet networks (macOS 26)
  std::uint32_t minCpus = 1;
  std::uint32_t maxCpus = 1;
  std::uint64_t minMemoryBytes = 0;
  std::uint64_t maxMemoryBytes = 0;
  std::vector<std::string> bridgeInterfaces;  ///< BSD names, e.g. en0
};

/// The oldest macOS we run on: a machine can be ended by force since then.
constexpr MacVersion kOldest{12, 0};

/// What a missing entitlement looks like to a user, and the fix.
extern const char* const kNotEntitled;

/// Whether machines can run here, and if not, why and what to do.
HostProbe probeFrom(const HostFacts& facts);

}  // namespace tshyve::vz
