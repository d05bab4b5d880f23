import type { NetworkSpec, VmSpec } from '../vm-spec.js';
import type { NativeMachineSpec, NativeNetwork } from './addon.js';

/** More queues than this bring nothing for one file. */
const MAX_DISK_QUEUES = 4;

/** A machine as the native core takes it. */
export function nativeSpec(spec: VmSpec): NativeMachineSpec {
  return {
    name: spec.name,
    uuid: spec.uuid,
    cpus: spec.cpus,
    memoryBytes: spec.memoryMiB * 2 ** 20,
    boot: { ...spec.boot },
    disks: spec.disks.map(({ id, path, readOnly }) => ({
      id,
      path,
      readOnly,
      queues: Math.min(spec.cpus, MAX_DISK_QUEUES),
    })),
    networks: [{ mac: spec.network.mac, backend: networkBackend(spec.network) }],
    shares: [],
    balloon: true,
    console: true,
    seccomp: true,
  };
}

function networkBackend(network: NetworkSpec): NativeNetwork {
  switch (network.mode) {
    case 'user':
      return { kind: 'user', hostname: network.hostname };
    case 'tap':
      return { kind: 'tap', interfaceName: network.interface, vhost: true };
  }
}
