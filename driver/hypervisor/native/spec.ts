import type { VmSpec } from '../vm-spec.js';
import type { NativeMachineSpec } from './addon.js';

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
    networks: [{ mac: spec.network.mac, backend: { kind: 'user', hostname: spec.network.hostname } }],
    shares: [],
    balloon: true,
    console: true,
    seccomp: true,
  };
}
