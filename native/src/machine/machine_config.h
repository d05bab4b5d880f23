#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace tshyve {

/// A machine, said declaratively; mirrors VmSpec of driver/hypervisor/vm-spec.ts. Paths are absolute host paths.

struct LinuxBoot {
  std::string kernel;  ///< bzImage or ELF with a PVH note
  std::string initrd;  ///< empty: none
  std::string commandLine;
};

struct DiskConfig {
  std::string id;  ///< what the guest sees as serial number, at most 20 bytes
  std::string path;
  bool readOnly = false;
  std::uint16_t queues = 1;
};

/// A host port that leads to a guest port. Host port 0: any free one.
struct ForwardConfig {
  std::string hostAddress;
  std::uint16_t hostPort = 0;
  std::uint16_t guestPort = 0;
  bool udp = false;
  std::string guestAddress = {};  ///< empty: the only guest there is
};

/// User-mode network in this process, by libslirp.
struct UserNetwork {
  std::string hostname;
  /// False where somebody else gives addresses: our switch, for several machines.
  bool dhcp = true;
};
/// An existing tap interface, or a descriptor of one that the caller opened.
struct TapNetwork {
  std::string interfaceName;
  int fd = -1;
  bool vhost = true;  ///< use vhost-net where the host has it
};
/// A peer at a unix socket: frames behind a 4-byte big-endian length (QEMU stream, passt, gvproxy, socket_vmnet).
struct StreamNetwork {
  std::string path;
};
/// A peer at a unix datagram socket: one frame a datagram (QEMU dgram, gvproxy vfkit, vmnet-helper).
struct DatagramNetwork {
  std::string path;
  std::string localPath;  ///< where we bind; must not exist
  int fd = -1;            ///< or a connected socket of the caller's
  /// Both ends have a fixed path and either may come and go: frames for a peer that is not there are lost, and nothing
  /// has to be connected again.
  bool connectionless = false;
  std::uint16_t mtu = 0;  ///< of the peer; 0: not known
};
/// VPNKit's framing.
struct VpnkitNetwork {
  std::string path;
  std::string uuid;
};

struct NetworkConfig {
  std::string mac;  ///< aa:bb:cc:dd:ee:ff
  std::variant<UserNetwork, TapNetwork, StreamNetwork, DatagramNetwork, VpnkitNetwork> backend;
};

/// Guest sockets reachable as unix sockets in a folder.
struct VsockConfig {
  std::uint32_t guestCid = 3;
  std::string directory;
};

/// A host folder, shared by a virtiofsd that listens at `socket`.
struct ShareConfig {
  std::string tag;
  std::string socket;
};

struct MachineConfig {
  std::string name;
  std::string uuid;
  std::uint32_t cpus = 1;
  std::uint64_t memoryBytes = 0;
  LinuxBoot boot;
  std::vector<DiskConfig> disks;
  std::vector<NetworkConfig> networks;
  std::optional<VsockConfig> vsock;
  std::vector<ShareConfig> shares;
  bool balloon = true;
  bool console = true;  ///< virtio-console (hvc0) beside the serial port
  bool seccomp = true;
};

}  // namespace tshyve
