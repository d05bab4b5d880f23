import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { isMainThread } from 'node:worker_threads';

import { TshyveError, messageOf, packageRoot } from '../../base/index.js';

/** The exports of the addon, as native/src/napi/addon.cc makes them; a test compares both. */
export interface NativeAddon {
  readonly interfaceVersion: number;
  /** Runs a little guest for at most 20 ms and says what this host's KVM is good for. */
  probe(): Promise<NativeProbe>;
  /** Builds a machine; its vCPUs wait for `start`. */
  create(spec: NativeMachineSpec, onEvent: (event: NativeEvent) => void): Promise<NativeMachine>;
  /** Builds a machine in the state that `save` has put into a folder; `start` resumes it. */
  restore(spec: NativeMachineSpec, folder: string, onEvent: (event: NativeEvent) => void): Promise<NativeMachine>;
  /** Makes a user-mode network; its events are those of type `address` and `log`. */
  createSwitch(settings: NativeSwitchSettings, onEvent: (event: NativeEvent) => void): Promise<NativeSwitch>;
}

export interface NativeSwitchSettings {
  /** Machines are NAME and NAME.domain. */
  readonly domain: string;
  /** What machines call the host. */
  readonly hosts: readonly { readonly name: string }[];
}

export interface NativeSwitchMachine {
  readonly mac: string;
  /** In 10.0.2.0/24, from .15 to .254. */
  readonly address: string;
  readonly hostname: string;
  /** Our end of the port, a unix datagram socket. */
  readonly localPath: string;
  /** The machine's end. */
  readonly path: string;
}

/** A user-mode network. Errors carry a `code`, see `nativeError`. */
export interface NativeSwitch {
  addMachine(machine: NativeSwitchMachine): Promise<void>;
  /** Takes its forwards along; fine when it is not there. */
  removeMachine(mac: string): Promise<void>;
  /** @returns the host port that is bound */
  addForward(forward: NativeForward & { readonly guestAddress: string }): Promise<number>;
  removeForward(forward: NativeForward & { readonly guestAddress: string }): Promise<void>;
  /** Ends it and lets Node's loop end; repeatable. */
  close(): Promise<void>;
}

export interface NativeProbe {
  readonly supported: boolean;
  readonly permitted: boolean;
  /** Guest kernel code runs on the processor, not in an emulator. */
  readonly hardwareSpeed: boolean;
  /** Of guest kernel code; 0 when none ran. */
  readonly instructionsPerSecond: number;
  /** Why KVM cannot be used and what to do; empty when it can. */
  readonly reason: string;
  /** What the probe took. */
  readonly milliseconds: number;
}

/** Mirrors `MachineConfig` of native/src/machine/machine_config.h, which describes the fields. */
export interface NativeMachineSpec {
  readonly name: string;
  readonly uuid: string;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly boot: { readonly kernel: string; readonly initrd: string; readonly commandLine: string };
  /** macOS: firmware boots the disks, instead of `boot`. */
  readonly efi?: { readonly variableStore: string };
  readonly disks: readonly {
    readonly id: string;
    readonly path: string;
    readonly readOnly: boolean;
    readonly queues: number;
  }[];
  readonly networks: readonly { readonly mac: string; readonly backend: NativeNetwork }[];
  readonly vsock?: {
    readonly guestCid: number;
    readonly directory: string;
    readonly ports?: readonly { readonly port: number }[];
  };
  /** KVM: a virtiofsd listens at `socket`. macOS: the folder itself. */
  readonly shares: readonly (
    | { readonly tag: string; readonly socket: string }
    | { readonly tag: string; readonly directory: string; readonly readOnly?: boolean }
  )[];
  readonly serial?: { readonly file?: string; readonly terminalLink?: string };
  readonly rosettaTag?: string;
  readonly nestedVirtualization?: boolean;
  readonly balloon: boolean;
  readonly console: boolean;
  readonly seccomp: boolean;
}

export type NativeNetwork =
  | { readonly kind: 'user'; readonly hostname: string }
  | { readonly kind: 'tap'; readonly interfaceName?: string; readonly fd?: number; readonly vhost: boolean }
  | { readonly kind: 'stream'; readonly path: string }
  | {
      readonly kind: 'datagram';
      readonly path?: string;
      readonly localPath?: string;
      readonly fd?: number;
      /** Either end may come and go. */
      readonly connectionless?: boolean;
      readonly mtu?: number;
    }
  | { readonly kind: 'vpnkit'; readonly path: string; readonly uuid: string }
  | { readonly kind: 'nat' }
  | { readonly kind: 'bridged'; readonly interfaceName: string }
  | { readonly kind: 'vmnet'; readonly hostOnly: boolean };

export interface NativeForward {
  readonly hostAddress: string;
  /** 0: any free one */
  readonly hostPort: number;
  readonly guestPort: number;
  readonly udp: boolean;
}

export type NativeEvent =
  | { readonly type: 'console'; readonly bytes: Buffer }
  /** A DHCPACK passed network interface `nic` on its way to the guest. */
  | {
      readonly type: 'address';
      readonly nic: number;
      readonly mac: string;
      readonly address: string;
      readonly leaseSeconds: number;
    }
  /** The peer of network interface `nic`, another program, went away or is back. */
  | { readonly type: 'link'; readonly nic: number; readonly up: boolean }
  | {
      readonly type: 'exited';
      readonly reason: 'shutdown' | 'reset' | 'killed' | 'crashed';
      readonly detail: string;
    }
  | { readonly type: 'log'; readonly line: string };

/**
 * A machine of the native core. Calls are made one after the other on a thread of its own; events come before the
 * result of the call that caused them. Errors carry a `code`, see `nativeError`.
 */
export interface NativeMachine {
  start(): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  pressPowerButton(): Promise<void>;
  /** Ends it at once; possible from any state, repeatable. */
  stop(): Promise<void>;
  /** Saves the paused machine into a folder (made if missing). */
  save(folder: string): Promise<void>;
  writeConsole(bytes: Uint8Array): Promise<void>;
  /** @returns the host port that is bound */
  addForward(nic: number, forward: NativeForward): Promise<number>;
  removeForward(nic: number, forward: NativeForward): Promise<void>;
  statistics(): Promise<{ exits: number; balloonBytes: number }>;
  /** Ends the machine, frees all it has, and lets Node's loop end; repeatable. */
  close(): Promise<void>;
}

/** Changes with the meaning of the exports; an addon of another number was built from other sources. */
export const interfaceVersion = 3;
const rebuild = (root: string) => `Build it with "npm run build:native" in ${root}.`;

let loaded: NativeAddon | undefined;

/**
 * The native core: `TSHYVE_ADDON` (a path), or the prebuilt one of this platform and C library, or one that was built
 * here with CMake by hand.
 * @throws TshyveError `precondition` that names what is missing and how to get it
 */
export function loadAddon(): NativeAddon {
  loaded ??= loadFrom(findAddon());
  return loaded;
}

/** The C library this Node runs on: addons of the other kind cannot be loaded. */
function cLibrary(): 'glibc' | 'musl' | 'libsystem' {
  if (process.platform === 'darwin') return 'libsystem';
  return readFileSync('/proc/self/maps', 'latin1').includes('/ld-musl-') ? 'musl' : 'glibc';
}

function findAddon(): string {
  const override = process.env['TSHYVE_ADDON'];
  if (override !== undefined && override !== '') {
    if (existsSync(override)) return override;
    throw new TshyveError('precondition', `TSHYVE_ADDON is ${override}, which does not exist. Correct or unset it.`);
  }
  const platform = `${process.platform}-${process.arch}`;
  if (platform !== 'linux-x64' && process.platform !== 'darwin') {
    throw new TshyveError('precondition', `There is no native core for ${platform}: use the qemu hypervisor.`);
  }
  const root = packageRoot();
  const candidates = [
    join(root, 'prebuilds', platform, `tshyve.${cLibrary()}.node`),
    join(root, 'native', 'build', 'addon', 'tshyve.node'),
  ];
  const found = candidates.find((path) => existsSync(path));
  if (found !== undefined) return found;
  throw new TshyveError(
    'precondition',
    `The native core for ${platform} (${cLibrary()}) is not in this installation: ${candidates.join(' and ')} do not exist. ${rebuild(root)}`,
  );
}

/** @throws TshyveError `precondition` */
export function loadFrom(path: string): NativeAddon {
  // A machine belongs to one thread's loop; those of worker threads come and go.
  if (!isMainThread) throw new TshyveError('internal', 'The native core cannot be used in a worker thread.');
  let addon: NativeAddon;
  try {
    addon = createRequire(import.meta.url)(path) as NativeAddon;
  } catch (error) {
    throw new TshyveError('precondition', `The native core ${path} cannot be loaded: ${explain(messageOf(error))}`, {
      cause: error,
    });
  }
  if (addon.interfaceVersion !== interfaceVersion) {
    throw new TshyveError(
      'precondition',
      `The native core ${path} has interface ${String(addon.interfaceVersion)}, this tshyve needs ${String(interfaceVersion)}: it was built from other sources. ${rebuild(packageRoot())}`,
    );
  }
  return addon;
}

/** The dynamic loader's words and what to do about them. */
function explain(message: string): string {
  const library = /(lib[\w.+-]+\.so[\w.]*): cannot open shared object file/.exec(message)?.[1];
  if (library !== undefined) {
    const name = library.startsWith('libslirp') ? 'libslirp0' : `the package that holds ${library}`;
    return `${library} is missing. Install ${name}, e.g. with "apt-get install libslirp0".`;
  }
  const newer = /version [`']([A-Z]+_[\d.]+)' not found/.exec(message)?.[1];
  if (newer !== undefined) {
    return `it needs ${newer}, which this system is too old for. ${rebuild(packageRoot())}`;
  }
  if (/invalid ELF header|wrong ELF class|file too short|cannot open shared object|not a mach-o/i.test(message)) {
    return `it is not for this processor and C library, or damaged (${message}). ${rebuild(packageRoot())}`;
  }
  return `${message}. ${rebuild(packageRoot())}`;
}
