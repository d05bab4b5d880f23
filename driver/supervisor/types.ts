import type { PortForward, VmSpec } from '../hypervisor/index.js';

export type SupervisorState = 'starting' | 'running' | 'paused' | 'stopping';

/** A boot milestone or a step of the machine's life. */
export interface MachineEvent {
  readonly name: string;
  readonly argument: string;
  /** Milliseconds since the launch. */
  readonly atMs: number;
}

export interface SupervisorStatus {
  readonly state: SupervisorState;
  readonly hostAddress: string;
  readonly forwards: readonly PortForward[];
  readonly hypervisor: string;
  readonly accelerator: string;
  readonly supervisorPid: number;
  /** 0 when unknown or in-process */
  readonly vmPid: number;
  /** Milliseconds since the epoch */
  readonly startedAtMs: number;
  readonly events: readonly MachineEvent[];
}

/** What a supervisor is given on its standard input. */
export interface LaunchRequest {
  readonly machineDirectory: string;
  readonly id: string;
  readonly hypervisor: string;
  readonly spec: VmSpec;
}

/** What a supervisor writes once to descriptor 3. */
export type LaunchAnswer =
  { readonly ready: true } | { readonly error: { readonly kind: string; readonly message: string } };
