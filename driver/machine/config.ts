import { TshyveError } from '../base/index.js';

/**
 * The driver part of a machine's config.json. Key names are part of the contract: the first nine are libmachine's
 * BaseDriver, users read them with `docker-machine inspect -f '{{.Driver.IPAddress}}'`, and `Boot2DockerURL` is read
 * by docker-machine's `upgrade`. CPU, Memory, DiskSize and Cmdline carry the names that minikube sends.
 */
export interface MachineConfig {
  IPAddress: string;
  MachineName: string;
  SSHUser: string;
  /** Host port of the machine's sshd; 0 until the machine has run. */
  SSHPort: number;
  SSHKeyPath: string;
  StorePath: string;
  SwarmMaster: boolean;
  SwarmHost: string;
  SwarmDiscovery: string;
  CPU: number;
  /** MB (2^20 bytes) */
  Memory: number;
  /** MB (2^20 bytes) */
  DiskSize: number;
  /** Where the guest image comes from; always a `file://` url once the machine exists. */
  Boot2DockerURL: string;
  ImageSHA256: string;
  Hypervisor: string;
  Network: string;
  /** Leave it to the user to forward ports that containers and NodePorts publish. */
  ManualPorts: boolean;
  /** Appended to the image's own kernel command line. */
  Cmdline: string;
  /** Each a size in MB (a new disk) or the absolute path of an image: raw (used in place) or qcow2 (imported). */
  ExtraDisks: string[];
  /** Host folders for the guest, each HOSTDIR[:GUESTDIR][:ro]. */
  Shares: string[];
  /** Ports of AF_VSOCK, decimal, that machine and host may reach of each other. The name is HyperKit's driver's. */
  VSockPorts: string[];
  /** macOS on Apple silicon: run x86-64 programs in the guest. */
  Rosetta: boolean;
  /** EFI firmware boots the image, not its kernel and initrd. */
  Firmware: boolean;
  /** The guest may run virtual machines itself. */
  NestedVirtualization: boolean;
  /** A host port the user insists on; 0 lets us choose. */
  RequestedSSHPort: number;
  /** Seconds until a boot without SSH counts as failed. */
  BootTimeout: number;
}

export const configDefaults: Readonly<MachineConfig> = {
  IPAddress: '',
  MachineName: '',
  SSHUser: 'docker',
  SSHPort: 0,
  SSHKeyPath: '',
  StorePath: '',
  SwarmMaster: false,
  SwarmHost: '',
  SwarmDiscovery: '',
  CPU: 2,
  Memory: 2048,
  DiskSize: 20_000,
  Boot2DockerURL: '',
  ImageSHA256: '',
  Hypervisor: 'auto',
  Network: process.platform === 'darwin' ? 'nat' : 'user',
  ManualPorts: false,
  Cmdline: '',
  ExtraDisks: [],
  Shares: [],
  VSockPorts: [],
  Rosetta: false,
  Firmware: false,
  NestedVirtualization: false,
  RequestedSSHPort: 0,
  BootTimeout: 300,
};

type ConfigKey = keyof MachineConfig;
const configKeys = Object.keys(configDefaults) as ConfigKey[];
const keyByLowerCase = new Map(configKeys.map((key) => [key.toLowerCase(), key]));

/** A config together with what a newer or foreign writer put into it. */
export interface StoredConfig {
  readonly config: MachineConfig;
  /** Keys we do not know, to be written back untouched. */
  readonly unknown: ReadonlyMap<string, unknown>;
  /** Sentences about values of the wrong type; the default is used instead until somebody acts on them. */
  readonly problems: readonly string[];
}

/**
 * Merges a JSON object into a config like Go's `json.Unmarshal` into an existing struct: keys match without regard to
 * case, `null` leaves a value alone. A value of the wrong type is a problem noted, not an error: docker-machine's `ls`
 * crashes when SetConfigRaw fails.
 * @throws TshyveError `invalid-config` when the text is not a JSON object
 */
export function mergeConfig(current: StoredConfig, json: string): StoredConfig {
  const received = parseObject(json);
  const config: MachineConfig = { ...current.config };
  const unknown = new Map(current.unknown);
  const problems: string[] = [];
  for (const [name, value] of Object.entries(received)) {
    const key = keyByLowerCase.get(name.toLowerCase());
    if (key === undefined) unknown.set(name, value);
    else if (value !== null && !assign(config, key, value)) {
      problems.push(`"${key}" must be ${describe(configDefaults[key])}, but is ${JSON.stringify(value).slice(0, 80)}`);
    }
  }
  // libmachine's own base driver writes an empty user before the flags are known.
  if (config.SSHUser === '') config.SSHUser = configDefaults.SSHUser;
  return { config, unknown, problems };
}

/** The config as JSON text: known keys first, in a stable order. */
export function renderConfig(stored: StoredConfig): string {
  return JSON.stringify({ ...stored.config, ...Object.fromEntries(stored.unknown) }, null, 4);
}

function parseObject(json: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw new TshyveError(
      'invalid-config',
      `The machine's config is not valid JSON (${(error as Error).message}). Restore config.json or remove the machine with "rm -f".`,
      { cause: error },
    );
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new TshyveError(
      'invalid-config',
      'The machine\'s config must be a JSON object. Restore config.json or remove the machine with "rm -f".',
    );
  }
  return value as Record<string, unknown>;
}

/** Sets one key if the value has its type; a disk count (minikube's form of ExtraDisks) is spelled out. */
function assign(config: MachineConfig, key: ConfigKey, value: unknown): boolean {
  const target = config as unknown as Record<ConfigKey, unknown>;
  if (key === 'ExtraDisks') {
    const disks = extraDisks(value, config.DiskSize);
    if (disks === undefined) return false;
    config.ExtraDisks = disks;
    return true;
  }
  const sample = configDefaults[key];
  if (Array.isArray(sample)) {
    if (!isStrings(value)) return false;
    target[key] = [...value];
    return true;
  }
  if (typeof sample === 'number') {
    if (typeof value !== 'number' || !Number.isSafeInteger(value)) return false;
  } else if (typeof value !== typeof sample) return false;
  target[key] = value;
  return true;
}

function extraDisks(value: unknown, diskSize: number): string[] | undefined {
  if (isStrings(value)) return [...value];
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 && value <= 24) {
    return Array.from({ length: value }, () => String(diskSize));
  }
  return undefined;
}

function isStrings(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((item) => typeof item === 'string');
}

function describe(sample: MachineConfig[ConfigKey]): string {
  if (Array.isArray(sample)) return 'a list of strings';
  if (typeof sample === 'number') return 'a whole number';
  return typeof sample === 'boolean' ? 'true or false' : 'a string';
}
