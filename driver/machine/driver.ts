import type { Log } from '../base/index.js';

/** The states of libmachine (`libmachine/state`), whose order is their number on the wire. */
export const machineStates = [
  'none',
  'running',
  'paused',
  'saved',
  'stopped',
  'stopping',
  'starting',
  'error',
  'timeout',
] as const;
export type MachineState = (typeof machineStates)[number];

/** One create flag, as libmachine's `mcnflag` package knows them. */
export type CreateFlag =
  | {
      readonly kind: 'string';
      readonly name: string;
      readonly usage: string;
      readonly envVar: string;
      readonly value: string;
    }
  | {
      readonly kind: 'int';
      readonly name: string;
      readonly usage: string;
      readonly envVar: string;
      readonly value: number;
    }
  | { readonly kind: 'bool'; readonly name: string; readonly usage: string; readonly envVar: string }
  | {
      readonly kind: 'strings';
      readonly name: string;
      readonly usage: string;
      readonly envVar: string;
      readonly value: readonly string[];
    };

/** A flag's value as a client sends it; `null` and a missing key both mean "zero value". */
export type FlagValue = string | number | boolean | readonly string[] | null;

/** What accompanies every operation that takes time. */
export interface Operation {
  readonly log: Log;
  /** Fires when the client is gone or asked to stop; the operation then cleans up and rejects with `cancelled`. */
  readonly signal: AbortSignal;
}

/**
 * The machine-driver contract, one object per machine. The plugin serves it over gob and gRPC, our own command calls
 * it directly. All errors are `TshyveError`s. Every operation may be repeated.
 */
export interface Driver {
  /** Always `tshyve`: clients store it and look up the plugin binary by it. */
  readonly driverName: string;
  readonly machineName: string;
  /**
   * Merges a config JSON object into this machine's config, as Go's `json.Unmarshal` into an existing struct does
   * (keys matched without regard to case); unknown keys are kept. Does no I/O.
   * @throws TshyveError `invalid-config` only when the text is not a JSON object
   */
  setConfigRaw(json: string): void;
  /** The config as a JSON object text, with all BaseDriver keys and every unknown key received. */
  getConfigRaw(): string;
  createFlags(): readonly CreateFlag[];
  /** @throws TshyveError `usage` when a value has the wrong type */
  setConfigFromFlags(values: ReadonlyMap<string, FlagValue>): void;
  /** Checks host, flags and image before anything is made. Creates nothing in the machine folder. */
  preCreateCheck(operation: Operation): Promise<void>;
  /** Makes and boots the machine; resolves when sshd answers. On failure nothing is left in the machine folder. */
  create(operation: Operation): Promise<void>;
  /** Resolves when sshd answers; resumes a saved machine. No-op on a running machine. */
  start(operation: Operation): Promise<void>;
  /** Power button, then force after a timeout; a saved machine is resumed for it. No-op on a stopped machine. */
  stop(operation: Operation): Promise<void>;
  restart(operation: Operation): Promise<void>;
  /** Ends the machine at once, as a power cut. A saved state is given up. */
  kill(operation: Operation): Promise<void>;
  /** Saves the running machine to disk and ends it; `start` then goes on from there. No-op on a saved machine. */
  suspend(operation: Operation): Promise<void>;
  /** Ends the machine and deletes all its files; fine on a half-made or missing machine. */
  remove(operation: Operation): Promise<void>;
  /** Replaces the machine's guest image by the newest one its image URL names, restarting it if it runs. */
  upgrade(operation: Operation): Promise<void>;
  getState(): Promise<MachineState>;
  /** @throws TshyveError `not-running` with exactly `Host is not running` when the machine is down */
  getURL(): Promise<string>;
  /** IPv4 address at which the host reaches the machine. @throws TshyveError `not-running` */
  getIP(): Promise<string>;
  /** IPv6 address, or an error when the machine has none. */
  getIPv6(): Promise<string>;
  /** A literal address: rancher-machine refuses names. */
  getSSHHostname(): Promise<string>;
  getSSHPort(): Promise<number>;
  getSSHKeyPath(): string;
  getSSHUsername(): string;
}

/** Makes the driver object for one machine (also for the nameless one of a flag look-up). No I/O. */
export type DriverFactory = (machineName: string, storePath: string) => Driver;
