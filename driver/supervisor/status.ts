import { readFile, rm } from 'node:fs/promises';
import { dirname } from 'node:path';

import { type FileLock, TshyveError, codeOf, exists, hasRunRoot, isServed, lockFile } from '../base/index.js';
import { commandLineOf } from './command-line.js';
import { type MachineReference, type SupervisorPlace, knownPlace } from './place.js';
import { type SupervisorStatus, parseStatus } from './types.js';

/** Others who look, and a supervisor on its way out, hold the lock for some milliseconds; one that launches, longer. */
const LOOK_TIMEOUT_MS = 500;

const unknownStart: SupervisorStatus = {
  state: 'starting',
  hostAddress: '',
  forwards: [],
  hypervisor: '',
  accelerator: '',
  supervisorPid: 0,
  vmPid: 0,
  startedAtMs: 0,
  problem: '',
  events: [],
};

/**
 * What runs for a machine, without loading gRPC: a living supervisor accepts connections and keeps its status file
 * true. Leftovers of one that died are cleared away.
 * @returns undefined when nothing runs
 */
export async function quickStatus(machine: MachineReference): Promise<SupervisorStatus | undefined> {
  const place = await knownPlace(machine);
  if ((await hasRunRoot(dirname(place.runDirectory))) && (await isServed(place.socket))) {
    const status = await readStatus(place.statusFile);
    if (status !== undefined) return status;
  }
  if (!(await exists(place.lock))) return undefined;
  let lock: FileLock;
  try {
    lock = await lockFile(place.lock, { timeoutMs: LOOK_TIMEOUT_MS });
  } catch (error) {
    if (TshyveError.is(error, 'busy')) return (await readStatus(place.statusFile)) ?? unknownStart;
    // Removed a moment ago, by somebody who ended the machine for good.
    if (!(await exists(place.machineDirectory))) return undefined;
    throw error;
  }
  try {
    await healLeftovers(place);
  } finally {
    await lock.release();
  }
  return undefined;
}

/** Clears what a dead supervisor left: on hosts without pdeathsig the hypervisor may have survived it. */
async function healLeftovers(place: SupervisorPlace): Promise<void> {
  const status = await readStatus(place.statusFile);
  if (status !== undefined && status.vmPid > 0 && (await isHypervisorOf(status.vmPid, place))) {
    process.kill(status.vmPid, 'SIGKILL');
  }
  await rm(place.runDirectory, { recursive: true, force: true });
}

/** A pid may have been given to another process since: only one that talks through our run folder is ours. */
async function isHypervisorOf(pid: number, place: SupervisorPlace): Promise<boolean> {
  return (await commandLineOf(pid)).includes(place.runDirectory);
}

async function readStatus(path: string): Promise<SupervisorStatus | undefined> {
  try {
    return parseStatus(await readFile(path, 'utf8'));
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}
