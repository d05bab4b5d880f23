#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace tshyve {

/// A machine, said declaratively; mirrors VmSpec of driver/hypervisor/vm-spec.ts. Paths are absolute host paths. What
/// only one of the two hypervisor interfaces has is marked so; the other refuses it.

struct LinuxBoot {
  std::string
      kernel;  ///< KVM: bzImage or ELF with a PVH note; macOS: bzImage, arm64 Image, that one in gzip or EFI zboot
  std::string initrd;  ///< empty: none
  std::string commandLine;
};

/// macOS: firmware boots what it finds on the disks, as a computer does.
struct EfiBoot {
  std::string variableStore;  ///< the firmware's variables; made when missing
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
/// macOS: the system's NAT with its DHCP server; machines reach the world and the host reaches them.
struct NatNetwork {};
/// macOS: on the physical network of a host interface. Needs an entitlement that Apple gives on request.
struct BridgedNetwork {
  std::string interfaceName;  ///< BSD name, e.g. en0
};
/// macOS 26: a network of this process, on which its machines reach each other.
struct VmnetNetwork {
  bool hostOnly = false;  ///< not beyond the host
};

struct NetworkConfig {
  std::string mac;  ///< aa:bb:cc:dd:ee:ff
  std::variant<UserNetwork, TapNetwork, StreamNetwork, DatagramNetwork, VpnkitNetwork, NatNetwork, BridgedNetwork,
               VmnetNetwork>
      backend;
};

/// Guest sockets reachable as unix sockets in a folder.
struct VsockConfig {
  std::uint32_t guestCid = 3;
  std::string directory;
  /// Each of these ports of the guest has a socket of its own. On macOS the guest reaches only these ports of the host,
  /// which the framework must know, on KVM all.
  std::vector<std::uint32_t> ports = {};
};

/// A host folder for the guest, by virtiofs.
struct ShareConfig {
  std::string tag;
  std::string socket;          ///< KVM: where a virtiofsd that serves the folder listens
  std::string directory = {};  ///< macOS: the folder, served by the framework
  bool readOnly = false;       ///< macOS
};

/// macOS: more serial ports of the guest, after the one whose output becomes events (hvc0).
struct SerialConfig {
  std::string file = {};          ///< takes what the guest writes, appended; empty: none
  std::string terminalLink = {};  ///< a link to the pseudo-terminal that is the other end; empty: none
};

struct MachineConfig {
  std::string name;
  std::string uuid;
  std::uint32_t cpus = 1;
  std::uint64_t memoryBytes = 0;
  LinuxBoot boot;
  std::optional<EfiBoot> efi = {};  ///< instead of `boot`
  std::vector<DiskConfig> disks;
  std::vector<NetworkConfig> networks;
  std::optional<VsockConfig> vsock;
  std::vector<ShareConfig> shares;
  SerialConfig serial = {};
  /// macOS on Apple silicon: the tag of a share with which the guest runs x86-64 programs; empty: none
  std::string rosettaTag = {};
  bool nestedVirtualization = false;  ///< macOS 15 on an M3 or later
  bool balloon = true;
  bool console = true;  ///< virtio-console (hvc0) beside the serial port
  bool seccomp = true;
};

}  // namespace tshyve
