import type { NetworkSpec, VmSpec } from '../vm-spec.js';

export type Accelerator = 'kvm' | 'hvf' | 'tcg';

/** MiB of translated code QEMU may keep; its default of 1/4 of memory is wasteful, less than this is slow. */
const TRANSLATION_CACHE_MIB = 512;

/**
 * QEMU's command line for a machine. Whatever carries text of a user's (paths, names) is passed as JSON, where commas
 * need no escaping. The machine starts paused (`-S`): port forwards are added over QMP before the first instruction.
 * Source: qemu(1), "QEMU QMP Reference Manual" for the JSON forms of -blockdev, -device and -netdev.
 * @param qmpSocket where QEMU listens for QMP
 */
export function qemuArguments(spec: VmSpec, accelerator: Accelerator, qmpSocket: string): string[] {
  const args = ['-nodefaults', '-no-user-config', '-S'];
  args.push('-name', `tshyve-${spec.uuid}`, '-uuid', spec.uuid);
  args.push('-machine', 'q35,vmport=off,hpet=off');
  args.push(
    '-accel',
    accelerator === 'tcg' ? `tcg,thread=multi,tb-size=${String(TRANSLATION_CACHE_MIB)}` : accelerator,
  );
  args.push('-cpu', accelerator === 'tcg' ? 'max' : 'host');
  args.push('-smp', String(spec.cpus), '-m', String(spec.memoryMiB));
  args.push('-rtc', 'base=utc,clock=host', '-display', 'none', '-vga', 'none', '-parallel', 'none', '-monitor', 'none');
  args.push('-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console');
  args.push(
    '-chardev',
    `socket,id=qmp,path=${escapeCommas(qmpSocket)},server=on,wait=off`,
    '-mon',
    'chardev=qmp,mode=control',
  );
  args.push('-kernel', spec.boot.kernel, '-append', spec.boot.commandLine);
  if (spec.boot.initrd !== '') args.push('-initrd', spec.boot.initrd);
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
      JSON.stringify({ driver: 'virtio-blk-pci', drive: node, serial: disk.id, id: `${node}-device` }),
    );
  }
  args.push(
    '-netdev',
    JSON.stringify({ id: 'net0', ...netdev(spec.network) }),
    '-device',
    JSON.stringify({ driver: 'virtio-net-pci', netdev: 'net0', mac: spec.network.mac, romfile: '' }),
  );
  args.push('-object', 'rng-random,id=rng0,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=rng0');
  if (process.platform === 'linux') {
    args.push('-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny');
  }
  return args;
}

function netdev(network: NetworkSpec): Record<string, unknown> {
  switch (network.mode) {
    case 'user':
      return { type: 'user', hostname: network.hostname, restrict: false };
    case 'tap':
      return { type: 'tap', ifname: network.interface, script: 'no', downscript: 'no' };
  }
}

/** In QEMU's own option syntax a doubled comma stands for one. */
export function escapeCommas(text: string): string {
  return text.replaceAll(',', ',,');
}
