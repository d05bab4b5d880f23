#include "vz/plan.h"

#include <algorithm>
#include <set>
#include <utility>

namespace tshyve::vz {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
/// Linux' COMMAND_LINE_SIZE on both processors.
constexpr std::size_t kMaxCommandLine = 2047;
/// VIRTIO 1.2, 5.11.4: a tag has up to 36 bytes; the framework wants one less.
constexpr std::size_t kMaxTag = 35;
/// VIRTIO 1.2, 5.2.6: VIRTIO_BLK_T_GET_ID gives 20 bytes.
constexpr std::size_t kMaxDiskId = 20;

// Which macOS has what (Apple's documentation of each class).
constexpr MacVersion kDiskIdentifiers{12, 3};
constexpr MacVersion kFirmware{13, 0};
constexpr MacVersion kMachineIdentifiers{13, 0};
constexpr MacVersion kRosetta{13, 0};
constexpr MacVersion kSaving{14, 0};
constexpr MacVersion kNested{15, 0};
constexpr MacVersion kVmnet{26, 0};

Error lacks(const std::string& what, MacVersion needed, const HostFacts& facts) {
  return {ErrorCode::kUnsupported, what + " needs macOS " + toText(needed) + " or later, and this is macOS " +
                                       toText(facts.version) + ": update macOS, or do without"};
}

Error invalid(std::string message) { return {ErrorCode::kInvalidArgument, std::move(message)}; }

Result<void> checkSize(const MachineConfig& config, const HostFacts& facts) {
  if (config.cpus < facts.minCpus || config.cpus > facts.maxCpus) {
    return invalid("a machine has from " + std::to_string(facts.minCpus) + " to " + std::to_string(facts.maxCpus) +
                   " CPUs on this Mac, not " + std::to_string(config.cpus));
  }
  if (config.memoryBytes < facts.minMemoryBytes || config.memoryBytes > facts.maxMemoryBytes ||
      config.memoryBytes % kMiB != 0) {
    return invalid("a machine has from " + std::to_string((facts.minMemoryBytes + kMiB - 1) / kMiB) + " to " +
                   std::to_string(facts.maxMemoryBytes / kMiB) + " MiB of memory on this Mac, in whole MiB, not " +
                   std::to_string(config.memoryBytes) + " bytes");
  }
  return {};
}

bool isMac(const std::string& text) {
  if (text.size() != 17) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
    if (i % 3 == 2 ? c != ':' : !hex) return false;
  }
  // A group address is nobody's own.
  const char low = text[1];
  const int digit = low <= '9' ? low - '0' : (low | 0x20) - 'a' + 10;
  return (digit & 1) == 0;
}

bool isPrintableAscii(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
}

Result<DiskPlan> planDisk(const DiskConfig& disk, const HostFacts& facts) {
  if (disk.path.empty()) return invalid("a disk needs the path of an image");
  if (disk.id.size() > kMaxDiskId || !isPrintableAscii(disk.id)) {
    return invalid("the disk id \"" + disk.id + "\" must have at most " + std::to_string(kMaxDiskId) +
                   " printable characters");
  }
  DiskPlan plan;
  plan.path = disk.path;
  plan.readOnly = disk.readOnly;
  // Cached: with the framework's own choice, Linux guests have seen their file systems damaged under load (lima#1957
  // and others); through the page cache they have not. Full: what a guest has flushed survives a loss of power, as on
  // our own core; on a Mac, fsync(2) alone leaves it in the drive's cache (its man page, F_FULLFSYNC).
  plan.caching = DiskCaching::kCached;
  plan.sync = disk.readOnly ? DiskSync::kFsync : DiskSync::kFull;
  if (facts.version >= kDiskIdentifiers) plan.identifier = disk.id;
  return plan;
}

/// What kind of network each backend is here.
class NetworkPlanner {
 public:
  NetworkPlanner(const HostFacts& facts, std::string mac) : facts_(facts), mac_(std::move(mac)) {}

  Result<NetworkPlan> operator()(const NatNetwork& /*nat*/) const { return NetworkPlan{NetworkKind::kNat, mac_, {}}; }

  Result<NetworkPlan> operator()(const BridgedNetwork& bridged) const {
    const auto& names = facts_.bridgeInterfaces;
    if (std::find(names.begin(), names.end(), bridged.interfaceName) != names.end()) {
      return NetworkPlan{NetworkKind::kBridged, mac_, bridged.interfaceName};
    }
    // Without the entitlement com.apple.vm.networking the list is empty.
    if (names.empty()) {
      return Error{ErrorCode::kPermission,
                   "macOS offers no interface to bridge: that takes the entitlement com.apple.vm.networking, which "
                   "Apple gives on request. Use the network nat"};
    }
    std::string list;
    for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
    return invalid("there is no interface \"" + bridged.interfaceName + "\" to bridge; there are: " + list);
  }

  Result<NetworkPlan> operator()(const VmnetNetwork& vmnet) const {
    if (facts_.version < kVmnet) return lacks("a network of our own (vmnet)", kVmnet, facts_);
    if (!facts_.vmnet) {
      return Error{ErrorCode::kUnsupported,
                   "this tshyve was built without networks of its own: build it with the SDK of macOS 26 (Xcode 26)"};
    }
    return NetworkPlan{vmnet.hostOnly ? NetworkKind::kVmnetHost : NetworkKind::kVmnetShared, mac_, {}};
  }

  Result<NetworkPlan> operator()(const DatagramNetwork& peer) const {
    if (peer.fd < 0 && (peer.path.empty() || peer.localPath.empty())) {
      return invalid("a datagram network needs a descriptor, or the paths of both ends");
    }
    if (peer.connectionless) {
      return refuse("sockets without a connection, as ports of tshyve's own switch are; use nat");
    }
    return NetworkPlan{NetworkKind::kFileHandle, mac_, {}, peer};
  }

  Result<NetworkPlan> operator()(const StreamNetwork& /*stream*/) const {
    return refuse("stream sockets; a peer with datagrams (gvproxy -listen-vfkit, vmnet-helper) works");
  }
  Result<NetworkPlan> operator()(const VpnkitNetwork& /*vpnkit*/) const {
    return refuse("VPNKit; a peer with datagrams (gvproxy -listen-vfkit, vmnet-helper) works");
  }
  Result<NetworkPlan> operator()(const UserNetwork& /*user*/) const {
    return refuse("user-mode networks; use nat, which needs no privilege either");
  }
  Result<NetworkPlan> operator()(const TapNetwork& /*tap*/) const {
    return refuse("tap interfaces, which macOS has not; use nat");
  }

 private:
  static Error refuse(const std::string& what) {
    return {ErrorCode::kUnsupported, "Virtualization.framework knows no " + what};
  }

  const HostFacts& facts_;
  std::string mac_;
};

Result<void> planNetworks(const MachineConfig& config, const HostFacts& facts, Plan& plan) {
  std::set<std::string> macs;
  for (const NetworkConfig& network : config.networks) {
    if (!isMac(network.mac)) {
      return invalid("the MAC address \"" + network.mac + "\" is not six pairs of digits of one interface");
    }
    if (!macs.insert(network.mac).second) return invalid("two network interfaces have the MAC " + network.mac);
    TSHYVE_TRY(NetworkPlan planned, std::visit(NetworkPlanner(facts, network.mac), network.backend));
    plan.networks.push_back(std::move(planned));
  }
  return {};
}

Result<void> planShares(const MachineConfig& config, const HostFacts& facts, Plan& plan) {
  std::set<std::string> tags;
  const auto add = [&tags](const std::string& tag) -> Result<void> {
    if (tag.empty() || tag.size() > kMaxTag || tag.find('\0') != std::string::npos) {
      return invalid("the tag of a share must have from 1 to " + std::to_string(kMaxTag) + " bytes, not \"" + tag +
                     "\"");
    }
    if (!tags.insert(tag).second) return invalid("two shares have the tag \"" + tag + "\"");
    return {};
  };
  for (const ShareConfig& share : config.shares) {
    TSHYVE_CHECK(add(share.tag));
    if (share.directory.empty() || !share.socket.empty()) {
      return invalid("the share \"" + share.tag + "\" needs a folder: macOS serves it itself, without a virtiofsd");
    }
    plan.shares.push_back({share.tag, share.directory, share.readOnly});
  }
  if (config.rosettaTag.empty()) return {};
  TSHYVE_CHECK(add(config.rosettaTag));
  if (facts.processor != Processor::kArm64) {
    return Error{ErrorCode::kUnsupported, "Rosetta is only on Macs with Apple silicon: this one runs x86-64 itself"};
  }
  if (facts.version < kRosetta) return lacks("Rosetta for Linux", kRosetta, facts);
  if (facts.rosetta == Rosetta::kNotSupported) {
    return Error{ErrorCode::kUnsupported, "this Mac offers no Rosetta for Linux: do without"};
  }
  if (facts.rosetta == Rosetta::kNotInstalled) {
    return Error{ErrorCode::kNotFound,
                 "Rosetta is not installed: run \"softwareupdate --install-rosetta --agree-to-license\" once"};
  }
  plan.rosettaTag = config.rosettaTag;
  return {};
}

Result<void> planBoot(const MachineConfig& config, const HostFacts& facts, Plan& plan) {
  if (config.efi) {
    if (facts.version < kFirmware) return lacks("booting by firmware (EFI)", kFirmware, facts);
    if (config.efi->variableStore.empty()) return invalid("booting by firmware needs a file for its variables");
    plan.boot = *config.efi;
    return {};
  }
  if (config.boot.kernel.empty()) return invalid("a machine needs a kernel, or firmware to boot by");
  LinuxPlan linux_{config.boot.kernel, config.boot.initrd, guestCommandLine(config.boot.commandLine)};
  if (linux_.commandLine.size() > kMaxCommandLine || linux_.commandLine.find('\0') != std::string::npos) {
    return invalid("the kernel command line has " + std::to_string(linux_.commandLine.size()) + " bytes; " +
                   std::to_string(kMaxCommandLine) + " without NUL are possible");
  }
  plan.boot = std::move(linux_);
  return {};
}

std::string whyNotSaved(const MachineConfig& config, const HostFacts& facts) {
  if (facts.processor != Processor::kArm64) return "macOS saves machines only on Apple silicon";
  if (facts.version < kSaving) return lacks("saving a machine", kSaving, facts).message;
  if (!config.shares.empty() || !config.rosettaTag.empty()) {
    return "macOS does not save machines that share folders: remove the shares";
  }
  return {};
}

}  // namespace

std::string guestCommandLine(const std::string& line) {
  const std::string padded = " " + line + " ";
  if (padded.find(" console=hvc0 ") != std::string::npos) return line;
  return line + (line.empty() ? "" : " ") + "console=hvc0";
}

Result<Plan> planMachine(const MachineConfig& config, const HostFacts& facts) {
  if (const HostProbe probe = probeFrom(facts); !probe.reason.empty()) {
    return Error{probe.supported ? ErrorCode::kPermission : ErrorCode::kUnsupported, probe.reason};
  }
  TSHYVE_CHECK(checkSize(config, facts));
  Plan plan;
  plan.cpus = config.cpus;
  plan.memoryBytes = config.memoryBytes;
  TSHYVE_CHECK(planBoot(config, facts, plan));
  plan.machineIdentifier = facts.version >= kMachineIdentifiers;
  if (config.nestedVirtualization) {
    if (facts.version < kNested) return lacks("nested virtualization", kNested, facts);
    if (!facts.nestedVirtualization) {
      return Error{ErrorCode::kUnsupported, "nested virtualization needs an M3 or later, which this Mac has not"};
    }
    plan.nestedVirtualization = true;
  }
  for (const DiskConfig& disk : config.disks) {
    TSHYVE_TRY(DiskPlan planned, planDisk(disk, facts));
    plan.disks.push_back(std::move(planned));
  }
  if (!plan.disks.empty() && facts.version < kDiskIdentifiers) {
    plan.notes.emplace_back("Disks have no serial number for the guest before macOS " + toText(kDiskIdentifiers) +
                            ": it must go by their order.");
  }
  TSHYVE_CHECK(planNetworks(config, facts, plan));
  plan.serialPorts.push_back({SerialKind::kEvents, {}});
  if (!config.serial.file.empty()) plan.serialPorts.push_back({SerialKind::kFile, config.serial.file});
  if (!config.serial.terminalLink.empty()) {
    plan.serialPorts.push_back({SerialKind::kTerminal, config.serial.terminalLink});
  }
  TSHYVE_CHECK(planShares(config, facts, plan));
  plan.balloon = config.balloon;
  plan.socketDevice = config.vsock.has_value();
  plan.cannotSave = whyNotSaved(config, facts);
  return plan;
}

}  // namespace tshyve::vz
