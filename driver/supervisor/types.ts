import * as v from 'valibot';

import { type PortForward, type VmSpec, portForwardSchema, vmSpecSchema } from '../hypervisor/index.js';

export const supervisorStates = ['starting', 'running', 'paused', 'stopping'] as const;
export type SupervisorState = (typeof supervisorStates)[number];

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
  /** What is wrong while it runs, a sentence; empty when all is well. */
  readonly problem: string;
  readonly events: readonly MachineEvent[];
}

/** How the supervisor logs in to its guest. */
export interface GuestLogin {
  readonly username: string;
  readonly privateKeyFile: string;
  /** Of an earlier contact; any is taken when it is not given. */
  readonly hostKey?: string;
}

/** What a supervisor is given on its standard input. */
export interface LaunchRequest {
  readonly machineDirectory: string;
  readonly id: string;
  readonly hypervisor: string;
  readonly spec: VmSpec;
  /** For what the supervisor does in the guest: set its clock after the host has slept, look for published ports. */
  readonly login?: GuestLogin;
  /** Forward the ports that the guest publishes. */
  readonly forwardPublished?: boolean;
  /** Go on from the machine's saved state instead of booting. */
  readonly resume?: boolean;
}

const count = v.pipe(v.number(), v.integer(), v.minValue(0));

const statusSchema: v.GenericSchema<unknown, SupervisorStatus> = v.object({
  state: v.picklist(supervisorStates),
  hostAddress: v.string(),
  forwards: v.array(portForwardSchema),
  hypervisor: v.string(),
  accelerator: v.string(),
  supervisorPid: count,
  vmPid: count,
  startedAtMs: count,
  problem: v.optional(v.string(), ''),
  events: v.array(v.object({ name: v.string(), argument: v.string(), atMs: count })),
});

const loginSchema = v.object({
  username: v.string(),
  privateKeyFile: v.string(),
  hostKey: v.exactOptional(v.string()),
});

const requestSchema: v.GenericSchema<unknown, LaunchRequest> = v.object({
  machineDirectory: v.pipe(v.string(), v.startsWith('/')),
  // Becomes the name of a folder.
  id: v.pipe(v.string(), v.regex(/^[0-9a-f]{16}$/)),
  hypervisor: v.string(),
  spec: vmSpecSchema,
  login: v.exactOptional(loginSchema),
  forwardPublished: v.exactOptional(v.boolean()),
  resume: v.exactOptional(v.boolean()),
});

const exitSchema = v.object({ detail: v.string() });

/** @returns undefined when the text is no status: cut off, or of another version */
export function parseStatus(text: string): SupervisorStatus | undefined {
  return parse(statusSchema, text);
}

/** @returns undefined when the text is no launch request, e.g. because its sender died while writing */
export function parseLaunchRequest(text: string): LaunchRequest | undefined {
  return parse(requestSchema, text);
}

/** @returns the sentence of a last-exit record, undefined when the text is none */
export function parseLastExit(text: string): string | undefined {
  return parse(exitSchema, text)?.detail;
}

function parse<T>(schema: v.GenericSchema<unknown, T>, text: string): T | undefined {
  try {
    const result = v.safeParse(schema, JSON.parse(text));
    return result.success ? result.output : undefined;
  } catch {
    return undefined;
  }
}
