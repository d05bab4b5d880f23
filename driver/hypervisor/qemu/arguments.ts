import { TshyveError } from '../../base/index.js';
import { onlyOnMac } from '../only-on-mac.js';
import type { Firmware } from './firmware.js';
import type { ServedShare } from '../virtiofsd.js';
import { type NetworkSpec, SWITCH_MTU, type VmSpec } from '../vm-spec.js';

export type Accelerator = 'kvm' | 'hvf' | 'tcg';

/** Of a guest, in QEMU's words. It is the host's, except under TCG. */
export type Architecture = 'x86_64' | 'aarch64';

/**
 * The board, and the processor that TCG imitates. `virt` has no default processor; cortex-a72 is cheaper to imitate than
 * `max`, whose pointer authentication alone costs a hash at each call. `gic-version=max` is what the accelerator can do.
 */
const boards = {
  x86_64: { machine: 'q35,vmport=off,hpet=off', imitated: 'max' },
  aarch64: { machine: 'virt,gic-version=max', imitated: 'cortex-a72' },
} as const;

/** MiB of translated code QEMU may keep; its default of 1/4 of memory is wasteful, less than this is slow. */
const TRANSLATION_CACHE_MIB = 512;

/** Requests on the way to virtiofsd; QEMU's own default of 128 is said to be slow (virtio-fs.gitlab.io). */
const SHARE_QUEUE_SIZE = 1024;

/**
 * QEMU's command line for a machine. Whatever carries text of a user's (paths, names) is passed as JSON, where commas
 * need no escaping. The machine starts paused (`-S`): port forwards are added over QMP before the first instruction.
 * Source: qemu(1), "QEMU QMP Reference Manual" for the JSON forms of -blockdev, -device and -netdev.
 * @param sockets.qmp where QEMU listens for QMP
 * @param sockets.frames where the frames of a `socket` network go: QEMU's own end of datagrams, or a FrameRelay
 * @param guest.mac if not the one of the spec
 * @param guest.shares where the folders of the spec are served
 * @param guest.firmware boots the machine, instead of the kernel of the spec
 */
export function qemuArguments(
  spec: VmSpec,
  accelerator: Accelerator,
  sockets: { readonly qmp: string; readonly frames: string },
  guest: {
    readonly architecture: Architecture;
    readonly mac?: string | undefined;
    readonly shares?: readonly ServedShare[];
    readonly firmware?: Firmware | undefined;
  },
): string[] {
  const { machine, imitated } = boards[guest.architecture];
  const { shares = [], firmware } = guest;
  const args = ['-nodefaults', '-no-user-config', '-S'];
  args.push('-name', `tshyve-${spec.uuid}`, '-uuid', spec.uuid);
  // Arm guests need the board's word for it; on x86 it is the processor model's.
  const nested = spec.nestedVirtualization === true && guest.architecture === 'aarch64' ? ',virtualization=on' : '';
  const memory = shares.length > 0 ? ',memory-backend=memory' : '';
  const flash = firmware === undefined ? '' : ',pflash0=firmware,pflash1=variables';
  args.push('-machine', `${machine}${nested}${memory}${flash}`);
  args.push(
    '-accel',
    accelerator === 'tcg' ? `tcg,thread=multi,tb-size=${String(TRANSLATION_CACHE_MIB)}` : accelerator,
  );
  args.push('-cpu', accelerator === 'tcg' ? imitated : 'host');
  args.push('-smp', String(spec.cpus), '-m', String(spec.memoryMiB));
  args.push('-rtc', 'base=utc,clock=host', '-display', 'none', '-vga', 'none', '-parallel', 'none', '-monitor', 'none');
  args.push('-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console');
  args.push(
    '-chardev',
    `socket,id=qmp,path=${escapeCommas(sockets.qmp)},server=on,wait=off`,
    '-mon',
    'chardev=qmp,mode=control',
  );
  if (firmware === undefined) {
    args.push('-kernel', spec.boot.kernel, '-append', spec.boot.commandLine);
    if (spec.boot.initrd !== '') args.push('-initrd', spec.boot.initrd);
  } else {
    for (const [name, filename] of [
      ['firmware', firmware.code],
      ['variables', firmware.variables],
    ] as const) {
      const readOnly = name === 'firmware';
      const file = { driver: 'file', filename, 'read-only': readOnly };
      args.push('-blockdev', JSON.stringify({ driver: 'raw', 'node-name': name, 'read-only': readOnly, file }));
    }
  }
  for (const [index, disk] of spec.disks.entries()) {
    const node = `disk${String(index)}`;
    args.push(
      '-blockdev',
      JSON.stringify({
        driver: 'raw',
        'node-name': node,
        'read-only': disk.readOnly,
        discard: 'unmap',
        'detect-zeroes': disk.readOnly ? 'off' : 'unmap',
        file: { driver: 'file', filename: disk.path, 'read-only': disk.readOnly, discard: 'unmap', aio: 'threads' },
      }),
      '-device',
      JSON.stringify({
        driver: 'virtio-blk-pci',
        drive: node,
        serial: disk.id,
        id: `${node}-device`,
        // The image is the last; firmware looks nowhere else than on disks.
        ...(firmware === undefined ? {} : { bootindex: spec.disks.length - index }),
      }),
    );
  }
  args.push(
    '-netdev',
    JSON.stringify({ id: 'net0', ...netdev(spec.network, sockets.frames) }),
    '-device',
    JSON.stringify({
      driver: 'virtio-net-pci',
      netdev: 'net0',
      mac: guest.mac ?? spec.network.mac,
      romfile: '',
      ...(spec.network.mode === 'switch' ? { host_mtu: SWITCH_MTU } : {}),
    }),
  );
  if (shares.length > 0) {
    // virtiofsd reads requests where the guest wrote them, and writes its answers there.
    const backend = { 'qom-type': 'memory-backend-memfd', id: 'memory', size: spec.memoryMiB * 2 ** 20, share: true };
    args.push('-object', JSON.stringify(backend));
  }
  for (const [index, { tag, socket }] of shares.entries()) {
    const id = `share${String(index)}`;
    args.push(
      '-chardev',
      `socket,id=${id},path=${escapeCommas(socket)}`,
      '-device',
      JSON.stringify({ driver: 'vhost-user-fs-pci', chardev: id, tag, 'queue-size': SHARE_QUEUE_SIZE }),
    );
  }
  args.push('-object', 'rng-random,id=rng0,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=rng0');
  if (process.platform === 'linux') {
    args.push('-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny');
  }
  return args;
}

function netdev(network: NetworkSpec, frames: string): Record<string, unknown> {
  switch (network.mode) {
    case 'user':
      return { type: 'user', hostname: network.hostname, restrict: false };
    case 'switch':
      // Since QEMU 7.2. It sends to a path, so that a switch that comes back is reached again.
      return {
        type: 'dgram',
        local: { type: 'unix', path: network.machineSocket },
        remote: { type: 'unix', path: network.switchSocket },
      };
    case 'tap':
    case 'namespace':
      return { type: 'tap', ifname: network.interface, script: 'no', downscript: 'no' };
    case 'nat':
      throw new TshyveError(
        'precondition',
        "QEMU reaches macOS' NAT only as root. Use the native hypervisor, or another network: --tshyve-network user.",
      );
    case 'bridged':
      throw new TshyveError('precondition', onlyOnMac('A bridged network'));
    case 'socket':
      return network.framing === 'datagram'
        ? { type: 'dgram', local: { type: 'unix', path: frames }, remote: { type: 'unix', path: network.path } }
        : { type: 'stream', server: false, addr: { type: 'unix', path: frames } };
  }
}

/** In QEMU's own option syntax a doubled comma stands for one. */
export function escapeCommas(text: string): string {
  return text.replaceAll(',', ',,');
}
