import { TshyveError } from '../base/index.js';
import { type MachineConfig, configDefaults } from './config.js';
import type { CreateFlag, FlagValue } from './driver.js';
import { networkChoices } from './network-choice.js';

/** A create flag and the config key it sets. */
interface FlagBinding {
  readonly flag: CreateFlag;
  readonly key: keyof MachineConfig;
}

const bindings: readonly FlagBinding[] = [
  int('cpus', 'CPU', 'Number of virtual CPUs', 'TSHYVE_CPUS'),
  int('memory', 'Memory', 'Memory of the machine in MB', 'TSHYVE_MEMORY'),
  int('disk-size', 'DiskSize', 'Size of the data disk in MB; it only takes the space that is used', 'TSHYVE_DISK_SIZE'),
  text(
    'image-url',
    'Boot2DockerURL',
    'Guest image: file:// or https:// url of an ISO (default: the image of this release)',
    'TSHYVE_IMAGE_URL',
  ),
  text('image-sha256', 'ImageSHA256', 'SHA-256 checksum that the guest image must have, in hex', 'TSHYVE_IMAGE_SHA256'),
  text('hypervisor', 'Hypervisor', 'Hypervisor: auto, native or qemu', 'TSHYVE_HYPERVISOR'),
  text('network', 'Network', `Network: ${networkChoices}`, 'TSHYVE_NETWORK'),
  bool(
    'manual-ports',
    'ManualPorts',
    'Do not forward by itself the ports that containers and NodePorts publish in the machine',
    'TSHYVE_MANUAL_PORTS',
  ),
  text('cmdline', 'Cmdline', 'Words to append to the kernel command line', 'TSHYVE_CMDLINE'),
  list(
    'extra-disk',
    'ExtraDisks',
    'Further disk: a size in MB, or the absolute path of an image, raw (used in place) or qcow2 (imported); may be repeated',
    'TSHYVE_EXTRA_DISK',
  ),
  list(
    'share',
    'Shares',
    'Folder of this host for the machine, as HOSTDIR[:GUESTDIR][:ro] (GUESTDIR: where it is mounted, if not at the same path); may be repeated',
    'TSHYVE_SHARE',
  ),
  list(
    'vsock-port',
    'VSockPorts',
    "Port of the machine's vsock that is a unix socket of this host, in the folder vsock of the machine; may be repeated",
    'TSHYVE_VSOCK_PORT',
  ),
  bool(
    'rosetta',
    'Rosetta',
    'Run x86-64 programs in an arm64 machine by Rosetta (Macs with Apple silicon)',
    'TSHYVE_ROSETTA',
  ),
  bool(
    'firmware',
    'Firmware',
    'Boot the image by EFI firmware, as a computer does, and not by its kernel and initrd',
    'TSHYVE_FIRMWARE',
  ),
  bool('nested', 'NestedVirtualization', 'Let the machine run virtual machines itself', 'TSHYVE_NESTED'),
  text('ssh-user', 'SSHUser', 'User to log in as over SSH', 'TSHYVE_SSH_USER'),
  int(
    'ssh-port',
    'RequestedSSHPort',
    "Host port of the machine's SSH server (0: 22 where allowed, else a free one)",
    'TSHYVE_SSH_PORT',
  ),
  int('boot-timeout', 'BootTimeout', 'Seconds to wait for the machine to answer over SSH', 'TSHYVE_BOOT_TIMEOUT'),
];

/** The flags of `create`, in the order `--help` shows them. */
export const createFlags: readonly CreateFlag[] = bindings.map((binding) => binding.flag);

/**
 * Writes the values of a client's create flags into a config. Flags of libmachine itself (`swarm-*`) come along in the
 * same map; anything else in it is not ours and ignored. A missing key means the client did not know the flag.
 * @throws TshyveError `usage` when a value has the wrong type
 */
export function applyFlags(
  config: MachineConfig,
  values: ReadonlyMap<string, FlagValue>,
  env: NodeJS.ProcessEnv = process.env,
): void {
  const target = config as unknown as Record<string, FlagValue>;
  for (const { flag, key } of bindings) {
    const given = values.get(flag.name);
    const value = (Array.isArray(given) && given.length === 0 ? undefined : given) ?? listFromEnvironment(flag, env);
    if (value === undefined) continue;
    const fits =
      flag.kind === 'strings'
        ? Array.isArray(value)
        : typeof value === (flag.kind === 'int' ? 'number' : flag.kind === 'bool' ? 'boolean' : 'string');
    if (!fits)
      throw new TshyveError('usage', `--${flag.name} got a value of the wrong type: ${JSON.stringify(value)}.`);
    target[key] = flag.kind === 'strings' ? [...(value as readonly string[])] : value;
  }
  config.SwarmMaster = values.get('swarm-master') === true;
  config.SwarmHost = asText(values.get('swarm-host'));
  config.SwarmDiscovery = asText(values.get('swarm-discovery'));
  if (config.SSHUser === '') config.SSHUser = configDefaults.SSHUser;
}

/** libmachine's clients read all variables but those of lists, and send an empty list, or none, when it was not given. */
function listFromEnvironment(flag: CreateFlag, env: NodeJS.ProcessEnv): readonly string[] | undefined {
  const text = flag.kind === 'strings' ? (env[flag.envVar] ?? '') : '';
  return text === '' ? undefined : text.split(',');
}

function asText(value: FlagValue | undefined): string {
  return typeof value === 'string' ? value : '';
}

function text(name: string, key: keyof MachineConfig, usage: string, envVar: string): FlagBinding {
  return { key, flag: { kind: 'string', name: `tshyve-${name}`, usage, envVar, value: configDefaults[key] as string } };
}

function bool(name: string, key: keyof MachineConfig, usage: string, envVar: string): FlagBinding {
  return { key, flag: { kind: 'bool', name: `tshyve-${name}`, usage, envVar } };
}

function list(name: string, key: keyof MachineConfig, usage: string, envVar: string): FlagBinding {
  return { key, flag: { kind: 'strings', name: `tshyve-${name}`, usage, envVar, value: [] } };
}

function int(name: string, key: keyof MachineConfig, usage: string, envVar: string): FlagBinding {
  return { key, flag: { kind: 'int', name: `tshyve-${name}`, usage, envVar, value: configDefaults[key] as number } };
}
