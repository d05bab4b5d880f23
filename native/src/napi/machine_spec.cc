#include "napi/machine_spec.h"

#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include "napi/fields.h"

namespace tshyve {
namespace {

constexpr std::size_t kMaxPath = 4095;  // PATH_MAX without its NUL
constexpr std::size_t kMaxName = 255;
constexpr std::size_t kMaxCommandLine = 4096;
constexpr std::size_t kMaxDevices = 32;
constexpr std::size_t kMaxTag = 36;  // VIRTIO 1.2, 5.11.4
constexpr std::size_t kMaxVsockPorts = 256;
/// Whole numbers of JavaScript are exact up to here.
constexpr std::uint64_t kMaxSafeInteger = (std::uint64_t{1} << 53) - 1;
constexpr std::uint64_t kMaxPort = std::numeric_limits<std::uint16_t>::max();
constexpr std::uint64_t kMaxFd = std::numeric_limits<std::int32_t>::max();

int optionalFd(Fields& fields) { return fields.has("fd") ? static_cast<int>(fields.number("fd", 0, kMaxFd)) : -1; }
std::string optionalPath(Fields& fields, const char* key) {
  return fields.has(key) ? fields.text(key, kMaxPath) : std::string();
}

DiskConfig readDisk(Fields& fields) {
  DiskConfig disk;
  disk.id = fields.text("id", 20);  // VIRTIO_BLK_ID_BYTES
  disk.path = fields.text("path", kMaxPath);
  disk.readOnly = fields.flag("readOnly");
  disk.queues = static_cast<std::uint16_t>(fields.number("queues", 1, 64));
  return disk;
}

NetworkConfig readNetwork(Fields& fields) {
  NetworkConfig network;
  network.mac = fields.text("mac", 17);
  Fields backend = fields.object("backend");
  const std::string kind = backend.text("kind", kMaxName);
  if (kind == "user") {
    network.backend = UserNetwork{backend.text("hostname", kMaxName)};
  } else if (kind == "tap") {
    network.backend = TapNetwork{optionalPath(backend, "interfaceName"), optionalFd(backend), backend.flag("vhost")};
  } else if (kind == "stream") {
    network.backend = StreamNetwork{backend.text("path", kMaxPath)};
  } else if (kind == "datagram") {
    network.backend = DatagramNetwork{
        optionalPath(backend, "path"), optionalPath(backend, "localPath"), optionalFd(backend),
        backend.has("connectionless") && backend.flag("connectionless"),
        backend.has("mtu") ? static_cast<std::uint16_t>(backend.number("mtu", 68, kMaxPort)) : std::uint16_t{0}};
  } else if (kind == "vpnkit") {
    network.backend = VpnkitNetwork{backend.text("path", kMaxPath), backend.text("uuid", 36)};
  } else if (kind == "nat") {
    network.backend = NatNetwork{};
  } else if (kind == "bridged") {
    network.backend = BridgedNetwork{backend.text("interfaceName", kMaxName)};
  } else if (kind == "vmnet") {
    network.backend = VmnetNetwork{backend.flag("hostOnly")};
  } else {
    backend.fail("kind", "user, tap, stream, datagram, vpnkit, nat, bridged or vmnet");
  }
  backend.finish();
  return network;
}

ShareConfig readShare(Fields& fields) {
  ShareConfig share;
  share.tag = fields.text("tag", kMaxTag);
  share.socket = optionalPath(fields, "socket");
  share.directory = optionalPath(fields, "directory");
  share.readOnly = fields.has("readOnly") && fields.flag("readOnly");
  return share;
}

VsockConfig readVsock(Fields& fields) {
  VsockConfig vsock;
  vsock.guestCid = static_cast<std::uint32_t>(fields.number("guestCid", 3, 0xFFFF'FFFE));
  vsock.directory = fields.text("directory", kMaxPath);
  if (fields.has("ports")) {
    fields.each("ports", kMaxVsockPorts, [&](Fields& entry) {
      vsock.ports.push_back(static_cast<std::uint32_t>(entry.number("port", 0, 0xFFFF'FFFE)));
    });
  }
  return vsock;
}

/// What only macOS has.
void readMacParts(Fields& fields, MachineConfig& config) {
  if (fields.has("efi")) {
    Fields efi = fields.object("efi");
    config.efi = EfiBoot{efi.text("variableStore", kMaxPath)};
    efi.finish();
  }
  if (fields.has("serial")) {
    Fields serial = fields.object("serial");
    config.serial = {optionalPath(serial, "file"), optionalPath(serial, "terminalLink")};
    serial.finish();
  }
  if (fields.has("rosettaTag")) config.rosettaTag = fields.text("rosettaTag", kMaxTag);
  config.nestedVirtualization = fields.has("nestedVirtualization") && fields.flag("nestedVirtualization");
}

}  // namespace

Result<MachineConfig> readMachineSpec(Napi::Value value) {
  Fields fields(value, "spec");
  MachineConfig config;
  config.name = fields.text("name", kMaxName);
  config.uuid = fields.text("uuid", 36);
  config.cpus = static_cast<std::uint32_t>(fields.number("cpus", 1, 64));
  config.memoryBytes = fields.number("memoryBytes", 1, kMaxSafeInteger);
  Fields boot = fields.object("boot");
  config.boot.kernel = boot.text("kernel", kMaxPath);
  config.boot.initrd = boot.text("initrd", kMaxPath);
  config.boot.commandLine = boot.text("commandLine", kMaxCommandLine);
  boot.finish();
  fields.each("disks", kMaxDevices, [&](Fields& disk) { config.disks.push_back(readDisk(disk)); });
  fields.each("networks", kMaxDevices, [&](Fields& network) { config.networks.push_back(readNetwork(network)); });
  if (fields.has("vsock")) {
    Fields vsock = fields.object("vsock");
    config.vsock = readVsock(vsock);
    vsock.finish();
  }
  fields.each("shares", kMaxDevices, [&](Fields& share) { config.shares.push_back(readShare(share)); });
  readMacParts(fields, config);
  config.balloon = fields.flag("balloon");
  config.console = fields.flag("console");
  config.seccomp = fields.flag("seccomp");
  fields.finish();
  if (!fields.failure().empty()) return Error{ErrorCode::kInvalidArgument, fields.failure()};
  return config;
}

Result<ForwardConfig> readForward(Napi::Value value) {
  Fields fields(value, "forward");
  ForwardConfig forward;
  forward.hostAddress = fields.text("hostAddress", 45);
  forward.hostPort = static_cast<std::uint16_t>(fields.number("hostPort", 0, kMaxPort));
  forward.guestPort = static_cast<std::uint16_t>(fields.number("guestPort", 1, kMaxPort));
  forward.udp = fields.flag("udp");
  if (fields.has("guestAddress")) forward.guestAddress = fields.text("guestAddress", 15);
  fields.finish();
  if (!fields.failure().empty()) return Error{ErrorCode::kInvalidArgument, fields.failure()};
  return forward;
}

}  // namespace tshyve
