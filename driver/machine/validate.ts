import { availableParallelism, totalmem } from 'node:os';
import { isAbsolute } from 'node:path';

import { TshyveError, messageOf } from '../base/index.js';
import { hypervisorNames } from '../hypervisor/index.js';
import type { MachineConfig } from './config.js';
import { parseNetworkChoice } from './network-choice.js';
import { parseShares } from './shares.js';
import { parseVsockPorts } from './vsock-ports.js';

const MAX_CPUS = 64;
const MIN_MEMORY_MB = 256;
const MIN_DISK_MB = 512;
const MAX_DISK_MB = 64 * 1024 * 1024;
/** COMMAND_LINE_SIZE of x86 Linux, less what the image itself appends. */
const MAX_COMMAND_LINE = 1024;
const MAX_EXTRA_DISKS = 16;

/**
 * Checks every setting that needs no I/O to check.
 * @returns one sentence per finding, each naming the flag and the fix; empty when all is well
 */
export function configFindings(config: MachineConfig): string[] {
  const findings: string[] = [];
  const check = (ok: boolean, sentence: string) => {
    if (!ok) findings.push(sentence);
  };
  const hostMemory = Math.floor(totalmem() / (1 << 20));
  check(
    /^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$/.test(config.MachineName),
    `The machine name "${config.MachineName}" is not a host name: use 1 to 63 letters, digits, dots and dashes, starting with a letter or digit.`,
  );
  check(
    config.CPU >= 1 && config.CPU <= MAX_CPUS,
    `--tshyve-cpus is ${String(config.CPU)}: give 1 to ${String(MAX_CPUS)} (this host has ${String(availableParallelism())}).`,
  );
  check(
    config.Memory >= MIN_MEMORY_MB && config.Memory <= hostMemory,
    `--tshyve-memory is ${String(config.Memory)} MB: give ${String(MIN_MEMORY_MB)} to ${String(hostMemory)} MB (all this host has).`,
  );
  check(
    config.DiskSize >= MIN_DISK_MB && config.DiskSize <= MAX_DISK_MB,
    `--tshyve-disk-size is ${String(config.DiskSize)} MB: give ${String(MIN_DISK_MB)} to ${String(MAX_DISK_MB)} MB.`,
  );
  check(
    config.ImageSHA256 === '' || /^[0-9a-f]{64}$/i.test(config.ImageSHA256),
    '--tshyve-image-sha256 is not a SHA-256 checksum: give its 64 hex digits, as `sha256sum` prints them.',
  );
  check(
    config.Hypervisor === 'auto' || (hypervisorNames as readonly string[]).includes(config.Hypervisor),
    `--tshyve-hypervisor is "${config.Hypervisor}": give auto or one of ${hypervisorNames.join(', ')}.`,
  );
  for (const parse of [
    () => parseNetworkChoice(config.Network),
    () => parseShares(config.Shares),
    () => parseVsockPorts(config.VSockPorts),
  ]) {
    try {
      parse();
    } catch (error) {
      findings.push(messageOf(error));
    }
  }
  check(
    config.Cmdline.length <= MAX_COMMAND_LINE && !/[\0-\x1f\x7f]/.test(config.Cmdline),
    `--tshyve-cmdline must be one line of at most ${String(MAX_COMMAND_LINE)} printable characters.`,
  );
  check(
    !config.Firmware || (config.Cmdline === '' && !config.Rosetta),
    '--tshyve-firmware leaves the kernel command line to the image: --tshyve-cmdline and --tshyve-rosetta cannot be given with it.',
  );
  check(
    config.ExtraDisks.length <= MAX_EXTRA_DISKS,
    `--tshyve-extra-disk was given ${String(config.ExtraDisks.length)} times: at most ${String(MAX_EXTRA_DISKS)} are possible.`,
  );
  for (const disk of config.ExtraDisks) {
    const size = /^[0-9]+$/.test(disk) ? Number(disk) : undefined;
    check(
      size === undefined ? isAbsolute(disk) : size >= 1 && size <= MAX_DISK_MB,
      `--tshyve-extra-disk "${disk}" is neither a size in MB (1 to ${String(MAX_DISK_MB)}) nor the absolute path of an image.`,
    );
  }
  check(
    /^[a-z_][a-z0-9_-]{0,31}$/i.test(config.SSHUser),
    `--tshyve-ssh-user "${config.SSHUser}" is not a user name: use letters, digits, "_" and "-".`,
  );
  check(
    config.RequestedSSHPort >= 0 && config.RequestedSSHPort <= 65_535,
    `--tshyve-ssh-port is ${String(config.RequestedSSHPort)}: give 1 to 65535, or 0 to let tshyve choose.`,
  );
  check(
    config.BootTimeout >= 10 && config.BootTimeout <= 3600,
    `--tshyve-boot-timeout is ${String(config.BootTimeout)} s: give 10 to 3600 s.`,
  );
  return findings;
}

/** @throws TshyveError `usage` that carries all findings at once */
export function requireValid(config: MachineConfig, problems: readonly string[]): void {
  const findings = [...problems.map((problem) => `In config.json, ${problem}.`), ...configFindings(config)];
  if (findings.length > 0) throw new TshyveError('usage', findings.join(' '));
}
