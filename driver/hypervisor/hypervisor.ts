import type { Log } from '../base/index.js';
import type { HostPort } from './forwards.js';
import type { PortForward, PortForwardSpec, VmSpec } from './vm-spec.js';

/** In the order of preference. */
export const hypervisorNames = ['native', 'qemu'] as const;
export type HypervisorName = (typeof hypervisorNames)[number];

/** What a look at this host found out about one backend. */
export interface ProbeResult {
  readonly hypervisor: HypervisorName;
  readonly usable: boolean;
  /** Accelerator that will be used; `vz` is Virtualization.framework. Undefined when unusable. */
  readonly accelerator?: 'kvm' | 'vz' | 'hvf' | 'tcg';
  /** Version text of the backend, e.g. `7.2.19`. */
  readonly version?: string;
  /** What `VirtualMachine.save` writes can be restored only by a backend of the same one. */
  readonly stateVersion?: string;
  /** One sentence per finding, for `tshyve doctor` and error messages: why an accelerator was refused, and the fix. */
  readonly notes: readonly string[];
}

/** What a machine may have beyond the ordinary, which not every backend on every host can give. */
export interface Extras {
  readonly shares: boolean;
  readonly rosetta: boolean;
  readonly nestedVirtualization: boolean;
  readonly bridged: boolean;
  readonly firmware: boolean;
  readonly vsock: boolean;
}

/** One way to run virtual machines. */
export interface Hypervisor {
  readonly name: HypervisorName;
  /** @returns what of it there is not here: sentences with cause and fix, none when all is well */
  lacks(extras: Extras): Promise<readonly string[]>;
  probe(options?: { signal?: AbortSignal }): Promise<ProbeResult>;
  /** Launches a machine and resolves once its vCPUs run. @throws TshyveError `hypervisor` with the last lines the backend said */
  launch(spec: VmSpec, options: LaunchOptions): Promise<VirtualMachine>;
}

export interface LaunchOptions {
  /** Private folder for this machine's sockets; exists. */
  readonly runDirectory: string;
  readonly log: Log;
  /** Everything the guest writes to its console, raw. */
  readonly onConsole: (bytes: Buffer) => void;
  /** The guest was given this IPv4 address, seen in the backend's own network. */
  readonly onAddress?: (address: string) => void;
  /** What is wrong with the backend's own network, a sentence; empty: all is well again. */
  readonly onProblem?: (problem: string) => void;
  /** Folder that `save` has filled: the machine goes on from there instead of booting. The spec must be the same. */
  readonly restoreFrom?: string;
  /** Runs when all is ready, before the first instruction of the guest. */
  readonly beforeStart?: () => Promise<void>;
  readonly signal?: AbortSignal;
}

/** Why a virtual machine is no more. */
export interface VmExit {
  /** `shutdown`: the guest powered off; `killed`: we ended it; `crashed`: anything else. */
  readonly reason: 'shutdown' | 'killed' | 'crashed';
  /** A sentence for the log, with the backend's last words when it crashed. */
  readonly detail: string;
}

/** A running virtual machine. */
export interface VirtualMachine {
  /** Process to be found and killed if we die, undefined for an in-process backend. */
  readonly pid: number | undefined;
  readonly accelerator: string;
  /** In force; none where the machine is not reached through ports of the host. */
  readonly forwards: readonly PortForward[];
  /** Settles when the machine is gone, which a guest that restarts is not; never rejects. */
  readonly exited: Promise<VmExit>;
  /** @throws TshyveError `precondition` when no host port can be had, or the machine is not reached through them */
  addForward(spec: PortForwardSpec): Promise<PortForward>;
  /** @throws TshyveError `not-found` */
  removeForward(port: HostPort): Promise<void>;
  /** Presses the ACPI power button; the guest may ignore it. */
  pressPowerButton(): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Saves the paused machine (memory and devices, not disks) into an existing empty folder; it stays paused. */
  save(folder: string): Promise<void>;
  /** Ends it at once; resolves when it is gone. */
  kill(): Promise<void>;
}
