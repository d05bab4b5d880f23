import * as v from 'valibot';

/** A virtual machine, said declaratively: what it has, not how a backend gives it. Mirrored by each backend. */
export interface VmSpec {
  readonly name: string;
  /** RFC 4122 text form; SMBIOS UUID where the backend has one. */
  readonly uuid: string;
  readonly cpus: number;
  readonly memoryMiB: number;
  readonly boot: LinuxBoot;
  /** EFI firmware boots what it finds on the disks, and `boot` counts for nothing. */
  readonly firmware?: FirmwareSpec;
  /** In guest order: the first is vda. Firmware boots from the last that it can. */
  readonly disks: readonly DiskSpec[];
  readonly network: NetworkSpec;
  /** Host folders for the guest, by virtiofs. */
  readonly shares?: readonly ShareSpec[];
  readonly vsock?: VsockSpec;
  /** macOS on Apple silicon: a share with this tag, with which the guest runs x86-64 programs. */
  readonly rosettaTag?: string;
  /** The guest may run virtual machines itself. */
  readonly nestedVirtualization?: boolean;
}

/** All ones stand for any port (vsock(7), VMADDR_PORT_ANY). */
export const VSOCK_MAX_PORT = 0xffff_fffe;

export interface ShareSpec {
  /** What the guest mounts; at most 35 bytes. */
  readonly tag: string;
  /** Absolute host path. */
  readonly directory: string;
  readonly readOnly: boolean;
}

/** Sockets of the guest's AF_VSOCK as unix sockets of the host (vsock(7)). */
export interface VsockSpec {
  /** Absolute path of their folder; made, private, when missing. */
  readonly directory: string;
  /** Ports that are to be reached from the other side. */
  readonly ports: readonly number[];
}

export interface FirmwareSpec {
  /** Absolute path of the file of its variables; made when missing. */
  readonly variableStore: string;
}

/** Direct kernel boot. Paths are absolute host paths. */
export interface LinuxBoot {
  readonly kernel: string;
  /** Empty: none. */
  readonly initrd: string;
  readonly commandLine: string;
}

export interface DiskSpec {
  /** Serial number the guest sees; letters, digits and `-`, at most 20 bytes (virtio-blk GET_ID). */
  readonly id: string;
  /** Absolute path of a raw image. */
  readonly path: string;
  readonly readOnly: boolean;
}

/** How the machine's network interface reaches the world. */
export type NetworkSpec =
  | UserNetworkSpec
  | SwitchNetworkSpec
  | TapNetworkSpec
  | NamespaceNetworkSpec
  | NatNetworkSpec
  | BridgedNetworkSpec
  | SocketNetworkSpec;

interface InterfaceSpec {
  /** `aa:bb:cc:dd:ee:ff` */
  readonly mac: string;
  /** DHCP host name the guest is told. */
  readonly hostname: string;
}

/** User-mode network: no privilege, the machine is reached at `hostAddress` through forwarded ports. */
export interface UserNetworkSpec extends InterfaceSpec {
  readonly mode: 'user';
  /** The loopback address that belongs to this machine, e.g. `127.64.3.9`. */
  readonly hostAddress: string;
  readonly forwards: readonly PortForwardSpec[];
}

/** A user-mode network of several machines: a port at its switch, and forwarded ports that the switch binds. */
export interface SwitchNetworkSpec extends InterfaceSpec {
  readonly mode: 'switch';
  /** Name of the network. */
  readonly network: string;
  /** The machine's end of the port, a unix datagram socket with one frame a datagram; made by the backend. */
  readonly machineSocket: string;
  /** The other end. It may come and go while the machine runs. */
  readonly switchSocket: string;
  readonly hostAddress: string;
  readonly forwards: readonly PortForwardSpec[];
}

/** What the switch and everybody on it can take. */
export const SWITCH_MTU = 65_520;

/** A tap interface on a shared network, where the machine has an address of its own. */
export interface TapNetworkSpec extends InterfaceSpec {
  readonly mode: 'tap';
  /** Name of the shared network. */
  readonly network: string;
  /** Name of the tap interface; made by whoever launches the machine. */
  readonly interface: string;
  /** What the machine offers at its address. */
  readonly services: readonly ServiceSpec[];
  /** Its address, when that is known before it asks for one: a resumed guest asks much later. */
  readonly address?: string;
}

/**
 * A tap interface on a shared network in a network namespace of the user's: whoever launches the machine is in there, and
 * the host reaches it through forwarded ports.
 */
export interface NamespaceNetworkSpec extends InterfaceSpec {
  readonly mode: 'namespace';
  /** As in TapNetworkSpec. */
  readonly network: string;
  readonly interface: string;
  readonly hostAddress: string;
  readonly forwards: readonly PortForwardSpec[];
}

/** The system's own NAT (macOS): a DHCP server of the system gives the machine an address that the host reaches. */
export interface NatNetworkSpec extends InterfaceSpec {
  readonly mode: 'nat';
  readonly services: readonly ServiceSpec[];
  /** As in TapNetworkSpec. */
  readonly address?: string;
}

/** On the physical network of a host interface (macOS), where a DHCP server of others gives the address. */
export interface BridgedNetworkSpec extends InterfaceSpec {
  readonly mode: 'bridged';
  /** BSD name, e.g. `en0` */
  readonly interface: string;
  readonly services: readonly ServiceSpec[];
  /** As in TapNetworkSpec. */
  readonly address?: string;
}

/**
 * How Ethernet frames travel over a unix socket: `stream` puts a length of 4 bytes, big-endian, before each (QEMU's
 * stream and socket back ends, passt, gvproxy's -listen-qemu, socket_vmnet); `datagram` is a frame a datagram (QEMU's
 * dgram, gvproxy's -listen-vfkit, vmnet-helper); `vpnkit` is VPNKit's handshake, then lengths of 2 bytes, little-endian.
 */
export const socketFramings = ['stream', 'datagram', 'vpnkit'] as const;
export type SocketFraming = (typeof socketFramings)[number];

/** The interface ends at a socket of another program, which is connected to again whenever that comes back. */
export interface SocketNetworkSpec extends InterfaceSpec {
  readonly mode: 'socket';
  readonly framing: SocketFraming;
  /** Where the peer listens. */
  readonly path: string;
  /** What the machine offers: at a port the peer forwards, else at its address. */
  readonly services: readonly (ServiceSpec & { readonly at?: ServiceAddress })[];
  /** As in TapNetworkSpec. */
  readonly address?: string;
}

export interface ServiceAddress {
  readonly hostAddress: string;
  readonly hostPort: number;
}

export interface ServiceSpec {
  /** `ssh`, `docker`, … or, for ports that have no name of their own, who asked for them. */
  readonly name: string;
  readonly guestPort: number;
}

export interface PortForwardSpec extends ServiceSpec {
  /** Host ports to try in this order; 0 means "any free port" and belongs last. */
  readonly hostPorts: readonly number[];
  /** TCP when not given. */
  readonly protocol?: Protocol;
}

export const protocols = ['tcp', 'udp'] as const;
export type Protocol = (typeof protocols)[number];

/** Where a service of the machine is reached: a forward that is in force, or the machine's own address and port. */
export interface PortForward {
  readonly name: string;
  readonly guestPort: number;
  readonly hostAddress: string;
  readonly hostPort: number;
  readonly protocol: Protocol;
}

const endpoint = v.object({ hostAddress: v.string(), hostPort: port() });
const serviceSpec = v.looseObject({ name: v.string(), guestPort: port() });
const forwardSpec = v.looseObject({
  ...serviceSpec.entries,
  hostPorts: v.array(port()),
  protocol: v.exactOptional(v.picklist(protocols)),
});
const interfaceSpec = { mac: v.string(), hostname: v.string() };
const networkSpec: v.GenericSchema<unknown, NetworkSpec> = v.variant('mode', [
  v.looseObject({
    mode: v.literal('user'),
    ...interfaceSpec,
    hostAddress: v.string(),
    forwards: v.array(forwardSpec),
  }),
  v.looseObject({
    mode: v.literal('switch'),
    ...interfaceSpec,
    network: v.string(),
    machineSocket: v.string(),
    switchSocket: v.string(),
    hostAddress: v.string(),
    forwards: v.array(forwardSpec),
  }),
  v.looseObject({
    mode: v.literal('tap'),
    ...interfaceSpec,
    network: v.string(),
    interface: v.string(),
    services: v.array(serviceSpec),
    address: v.exactOptional(v.string()),
  }),
  v.looseObject({
    mode: v.literal('namespace'),
    ...interfaceSpec,
    network: v.string(),
    interface: v.string(),
    hostAddress: v.string(),
    forwards: v.array(forwardSpec),
  }),
  v.looseObject({
    mode: v.literal('nat'),
    ...interfaceSpec,
    services: v.array(serviceSpec),
    address: v.exactOptional(v.string()),
  }),
  v.looseObject({
    mode: v.literal('bridged'),
    ...interfaceSpec,
    interface: v.string(),
    services: v.array(serviceSpec),
    address: v.exactOptional(v.string()),
  }),
  v.looseObject({
    mode: v.literal('socket'),
    ...interfaceSpec,
    framing: v.picklist(socketFramings),
    path: v.string(),
    services: v.array(v.looseObject({ ...serviceSpec.entries, at: v.exactOptional(endpoint) })),
    address: v.exactOptional(v.string()),
  }),
]);

/** Parses a spec that came from another process; fields that this version does not know stay in it. */
export const vmSpecSchema: v.GenericSchema<unknown, VmSpec> = v.looseObject({
  name: v.string(),
  uuid: v.string(),
  cpus: v.pipe(v.number(), v.integer(), v.minValue(1)),
  memoryMiB: v.pipe(v.number(), v.integer(), v.minValue(1)),
  boot: v.looseObject({ kernel: v.string(), initrd: v.string(), commandLine: v.string() }),
  firmware: v.exactOptional(v.looseObject({ variableStore: v.string() })),
  disks: v.array(v.looseObject({ id: v.string(), path: v.string(), readOnly: v.boolean() })),
  network: networkSpec,
  shares: v.exactOptional(v.array(v.looseObject({ tag: v.string(), directory: v.string(), readOnly: v.boolean() }))),
  vsock: v.exactOptional(
    v.looseObject({
      directory: v.string(),
      ports: v.array(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(VSOCK_MAX_PORT))),
    }),
  ),
  rosettaTag: v.exactOptional(v.string()),
  nestedVirtualization: v.exactOptional(v.boolean()),
});

/** Parses a forward that came from another process. */
export const portForwardSchema: v.GenericSchema<unknown, PortForward> = v.looseObject({
  name: v.string(),
  guestPort: port(),
  hostAddress: v.string(),
  hostPort: port(),
  // Not said by earlier versions.
  protocol: v.optional(v.picklist(protocols), 'tcp'),
});

function port() {
  return v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(65_535));
}
