import { rename, rm, stat } from 'node:fs/promises';
import { cpus } from 'node:os';
import { join } from 'node:path';

import * as v from 'valibot';

import {
  TshyveError,
  exists,
  fileError,
  makePrivateDirectory,
  readTextIfPresent,
  writeFileAtomic,
} from '../base/index.js';
import {
  type HypervisorName,
  type PortForward,
  type ProbeResult,
  type VirtualMachine,
  type VmSpec,
  hypervisorNames,
  portForwardSchema,
  vmSpecSchema,
} from '../hypervisor/index.js';

const FORMAT = 1;

/**
 * What a suspended machine left: the folder `saved` in the machine's folder holds this as `saved.json`, beside what the
 * hypervisor has written. Memory and devices are of no use with other disks, so the disks' stamps are part of it.
 */
export interface SavedState {
  readonly format: typeof FORMAT;
  readonly hypervisor: HypervisorName;
  readonly stateVersion: string;
  readonly accelerator: string;
  /** The host's processor: a guest that has looked at one cannot go on with another. */
  readonly processor: string;
  readonly spec: VmSpec;
  readonly forwards: readonly PortForward[];
  /** Size and time of last change of each disk, by path. */
  readonly disks: Readonly<Record<string, string>>;
}

const schema: v.GenericSchema<unknown, SavedState> = v.object({
  format: v.literal(FORMAT),
  hypervisor: v.picklist(hypervisorNames),
  stateVersion: v.string(),
  accelerator: v.string(),
  processor: v.string(),
  spec: vmSpecSchema,
  forwards: v.array(portForwardSchema),
  disks: v.record(v.string(), v.string()),
});

/** Where a machine keeps its saved state: `ready` is whole, the others are on their way in or out. */
function folders(machineDirectory: string) {
  return {
    ready: join(machineDirectory, 'saved'),
    writing: join(machineDirectory, 'saved.new'),
    used: join(machineDirectory, 'saved.used'),
  };
}

/** True when the machine is suspended. */
export async function hasSavedState(machineDirectory: string): Promise<boolean> {
  return exists(join(folders(machineDirectory).ready, 'saved.json'));
}

/** @returns undefined when the machine is not suspended. @throws TshyveError `invalid-config` when it is damaged */
export async function readSavedState(machineDirectory: string): Promise<SavedState | undefined> {
  const path = join(folders(machineDirectory).ready, 'saved.json');
  const text = await readTextIfPresent(path);
  if (text === undefined) return undefined;
  const parsed = v.safeParse(v.pipe(v.string(), v.parseJson(), schema), text);
  if (parsed.success) return parsed.output;
  throw new TshyveError('invalid-config', `${path} is damaged or was written by another version of tshyve. ${giveUp}`);
}

/** What a user can do about a state that cannot be resumed. */
export const giveUp =
  'Put it back as it was; or give the saved state up with "tshyve kill" (or "docker-machine kill"): the next start then boots afresh, as after a power cut.';

/**
 * Saves a paused machine. The state is in place under its final name only when it is whole.
 * @throws TshyveError; what is half-written is gone then, and the machine as it was
 */
export async function writeSavedState(
  machineDirectory: string,
  vm: Pick<VirtualMachine, 'save' | 'accelerator'>,
  facts: Pick<SavedState, 'hypervisor' | 'stateVersion' | 'spec' | 'forwards'>,
): Promise<void> {
  const { ready, writing } = folders(machineDirectory);
  await rm(writing, { recursive: true, force: true });
  // Memory holds the guest's secrets.
  await makePrivateDirectory(writing);
  try {
    await vm.save(writing);
    const state: SavedState = {
      ...facts,
      format: FORMAT,
      accelerator: vm.accelerator,
      processor: processor(),
      disks: await diskStamps(facts.spec),
    };
    await writeFileAtomic(join(writing, 'saved.json'), `${JSON.stringify(state, null, 2)}\n`);
    await rm(ready, { recursive: true, force: true });
    await rename(writing, ready);
  } catch (error) {
    await rm(writing, { recursive: true, force: true });
    throw fileError(`save the machine in ${writing}`, error);
  }
}

/** The folder a hypervisor restores from. */
export function savedFolder(machineDirectory: string): string {
  return folders(machineDirectory).ready;
}

/**
 * Marks the state as used, at the last moment before the guest runs on: from then on the disks change. The files stay
 * until `discardSavedState`, as the hypervisor may still read memory from them.
 */
export async function useSavedState(machineDirectory: string): Promise<void> {
  const { ready, used } = folders(machineDirectory);
  await rm(used, { recursive: true, force: true });
  await rename(ready, used);
}

/** Takes `useSavedState` back: the guest did not run. */
export async function returnSavedState(machineDirectory: string): Promise<void> {
  const { ready, used } = folders(machineDirectory);
  if (await exists(used)) await rename(used, ready);
}

/** Deletes the state and all leftovers; fine when there is none. */
export async function discardSavedState(machineDirectory: string): Promise<void> {
  const { ready, writing, used } = folders(machineDirectory);
  // Its record first: a state that is half deleted must not be taken for one.
  await rm(join(ready, 'saved.json'), { force: true });
  await Promise.all([ready, writing, used].map((folder) => rm(folder, { recursive: true, force: true })));
}

/**
 * Why a saved state cannot be resumed with what is there now.
 * @param spec what the machine would be launched with
 * @param probe of the state's hypervisor
 * @returns sentences, none when it fits
 */
export async function misfits(saved: SavedState, spec: VmSpec, probe: ProbeResult): Promise<string[]> {
  const found: string[] = [];
  const same = (what: string, then: unknown, now: unknown) => {
    if (JSON.stringify(then) !== JSON.stringify(now)) found.push(`${what} ${show(then)} then, and ${show(now)} now.`);
  };
  if (!probe.usable) found.push(`${saved.hypervisor} cannot be used: ${probe.notes.join(' ')}`);
  else {
    same(`${saved.hypervisor} was`, saved.stateVersion, probe.stateVersion);
    same('The accelerator was', saved.accelerator, probe.accelerator);
  }
  same('The processor of this host was', saved.processor, processor());
  same('The number of CPUs was', saved.spec.cpus, spec.cpus);
  same('Its memory in MB was', saved.spec.memoryMiB, spec.memoryMiB);
  same('Its MAC address was', saved.spec.network.mac, spec.network.mac);
  same('Its disks were', saved.spec.disks, spec.disks);
  const stamps = await diskStamps(saved.spec);
  for (const { path } of saved.spec.disks) {
    if (stamps[path] !== saved.disks[path]) found.push(`The disk ${path} has been changed since.`);
  }
  return found;
}

function show(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

async function diskStamps(spec: VmSpec): Promise<Record<string, string>> {
  const stamps = await Promise.all(
    spec.disks.map(async ({ path }): Promise<[string, string]> => {
      const status = await stat(path, { bigint: true }).catch(() => undefined);
      return [path, status === undefined ? 'missing' : `${String(status.size)} bytes, ${String(status.mtimeNs)} ns`];
    }),
  );
  return Object.fromEntries(stamps);
}

function processor(): string {
  return cpus()[0]?.model.trim() ?? '';
}
