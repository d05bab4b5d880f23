import { availableParallelism, loadavg } from 'node:os';

import { TshyveError, messageOf, sleep } from '../../base/index.js';
import { type NativeProbe, loadAddon } from './addon.js';

/**
 * A host that is busy enough looks like one that emulates, for some milliseconds: there the verdict "too slow" is asked
 * for again after these pauses.
 */
const SECOND_LOOKS_MS = [20, 60, 150] as const;

let known: Promise<NativeProbe | { missing: string }> | undefined;

/** What this host's KVM is good for, or why the core is not there to say it. The host is looked at once per process. */
export function probeNative(): Promise<NativeProbe | { missing: string }> {
  known ??= look();
  return known;
}

async function look(): Promise<NativeProbe | { missing: string }> {
  try {
    const addon = loadAddon();
    let probe = await addon.probe();
    for (const pause of SECOND_LOOKS_MS) {
      if (!probe.permitted || probe.hardwareSpeed || !isBusy()) break;
      await sleep(pause);
      const again = await addon.probe();
      if (again.hardwareSpeed || again.instructionsPerSecond > probe.instructionsPerSecond) probe = again;
    }
    return probe;
  } catch (error) {
    if (!TshyveError.is(error, 'precondition')) throw error;
    return { missing: messageOf(error) };
  }
}

/** True when more wants to run than the host has processors for. */
function isBusy(): boolean {
  return (loadavg()[0] ?? 0) >= availableParallelism();
}
