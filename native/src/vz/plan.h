#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "machine/machine_config.h"
#include "vz/host.h"

namespace tshyve::vz {

/// What to ask of the framework for one machine, decided in full: the Objective-C++ side reads it from top to bottom
/// and makes one object for each entry. It holds no decision of its own beyond the compiler's availability checks.

struct LinuxPlan {
  std::string kernel;  ///< as configured; the file given to the framework may be an unpacked copy
  std::string initrd;  ///< empty: none
  std::string commandLine;
};

/// Whether reads and writes go through the host's page cache.
enum class DiskCaching { kAutomatic, kCached, kUncached };
/// What a flush of the guest means on the host.
enum class DiskSync { kFull, kFsync, kNone };

struct DiskPlan {
  std::string path;
  bool readOnly = false;
  DiskCaching caching = DiskCaching::kCached;
  DiskSync sync = DiskSync::kFull;
  std::string identifier;  ///< empty: this macOS cannot tell one to the guest
};

enum class NetworkKind { kNat, kBridged, kFileHandle, kVmnetShared, kVmnetHost };

struct NetworkPlan {
  NetworkKind kind = NetworkKind::kNat;
  std::string mac;
  std::string interfaceName;  ///< kBridged
  DatagramNetwork peer = {};  ///< kFileHandle
};

enum class SerialKind { kEvents, kFile, kTerminal };

struct SerialPlan {
  SerialKind kind = SerialKind::kEvents;
  std::string path;  ///< kFile: the file; kTerminal: the link to it
};

struct SharePlan {
  std::string tag;
  std::string directory;
  bool readOnly = false;
};

/// One machine. Devices are in guest order.
struct Plan {
  std::variant<LinuxPlan, EfiBoot> boot;
  std::uint32_t cpus = 1;
  std::uint64_t memoryBytes = 0;
  bool machineIdentifier = false;  ///< the platform carries one (macOS 13)
  bool nestedVirtualization = false;
  std::vector<DiskPlan> disks;
  std::vector<NetworkPlan> networks;
  std::vector<SerialPlan> serialPorts;
  std::vector<SharePlan> shares;
  std::string rosettaTag;  ///< empty: none
  bool entropy = true;
  bool balloon = true;
  bool socketDevice = false;
  /// Why its state cannot be saved here; empty: it can.
  std::string cannotSave;
  /// What was asked for and is missing on this macOS, where a machine can do without it: a sentence each.
  std::vector<std::string> notes;
};

/// Decides what a machine consists of on this Mac.
/// @return kInvalidArgument for what is off, kUnsupported for what this macOS or Mac lacks (with the version that has
/// it),
///         kPermission without the entitlement
Result<Plan> planMachine(const MachineConfig& config, const HostFacts& facts);

/// The kernel's command line with the only console that there is on a Mac: /dev/hvc0. The console named last becomes
/// /dev/console, and the images' own lines name the serial port of a PC.
std::string guestCommandLine(const std::string& line);

}  // namespace tshyve::vz
