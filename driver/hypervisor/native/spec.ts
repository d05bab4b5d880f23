import type { ServedShare } from '../virtiofsd.js';
import { SWITCH_MTU, type SocketNetworkSpec, type VmSpec } from '../vm-spec.js';
import type { NativeMachineSpec, NativeNetwork } from './addon.js';

/** Each machine has a vsock of its own, so all may have the first context id that is not reserved (vsock(7)). */
const GUEST_CID = 3;
/** More queues than this bring nothing for one file. */
const MAX_DISK_QUEUES = 4;

/**
 * A machine as the native core takes it.
 * @param frameSocket where our end of a datagram network goes
 * @param served where the folders of the spec are served; on a Mac the framework does that itself
 */
export function nativeSpec(spec: VmSpec, frameSocket: string, served: readonly ServedShare[] = []): NativeMachineSpec {
  return {
    name: spec.name,
    uuid: spec.uuid,
    cpus: spec.cpus,
    memoryBytes: spec.memoryMiB * 2 ** 20,
    boot: { ...spec.boot },
    ...(spec.firmware === undefined ? {} : { efi: { variableStore: spec.firmware.variableStore } }),
    disks: spec.disks.map(({ id, path, readOnly }) => ({
      id,
      path,
      readOnly,
      queues: Math.min(spec.cpus, MAX_DISK_QUEUES),
    })),
    networks: [{ mac: spec.network.mac, backend: networkBackend(spec, frameSocket) }],
    shares:
      process.platform === 'darwin'
        ? (spec.shares ?? []).map(({ tag, directory, readOnly }) => ({ tag, directory, readOnly }))
        : served.map(({ tag, socket }) => ({ tag, socket })),
    ...(spec.vsock === undefined
      ? {}
      : {
          vsock: {
            guestCid: GUEST_CID,
            directory: spec.vsock.directory,
            ports: spec.vsock.ports.map((port) => ({ port })),
          },
        }),
    ...(spec.rosettaTag === undefined ? {} : { rosettaTag: spec.rosettaTag }),
    ...(spec.nestedVirtualization === true ? { nestedVirtualization: true } : {}),
    balloon: true,
    console: true,
    seccomp: true,
  };
}

function networkBackend({ network, uuid }: VmSpec, frameSocket: string): NativeNetwork {
  switch (network.mode) {
    case 'user':
      return { kind: 'user', hostname: network.hostname };
    case 'switch': {
      const { machineSocket, switchSocket } = network;
      return { kind: 'datagram', localPath: machineSocket, path: switchSocket, connectionless: true, mtu: SWITCH_MTU };
    }
    case 'tap':
    case 'namespace':
      return { kind: 'tap', interfaceName: network.interface, vhost: true };
    case 'nat':
      return { kind: 'nat' };
    case 'bridged':
      return { kind: 'bridged', interfaceName: network.interface };
    case 'socket':
      return socketBackend(network, uuid, frameSocket);
  }
}

function socketBackend({ framing, path }: SocketNetworkSpec, uuid: string, localPath: string): NativeNetwork {
  switch (framing) {
    case 'stream':
      return { kind: 'stream', path };
    case 'datagram':
      return { kind: 'datagram', path, localPath };
    case 'vpnkit':
      return { kind: 'vpnkit', path, uuid };
  }
}
