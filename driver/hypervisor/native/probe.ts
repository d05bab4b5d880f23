import { TshyveError, messageOf } from '../../base/index.js';
import { type NativeProbe, loadAddon } from './addon.js';

let known: Promise<NativeProbe | { missing: string }> | undefined;

/** What this host's KVM is good for, or why the core is not there to say it. The host is looked at once per process. */
export function probeNative(): Promise<NativeProbe | { missing: string }> {
  known ??= look();
  return known;
}

async function look(): Promise<NativeProbe | { missing: string }> {
  try {
    return await loadAddon().probe();
  } catch (error) {
    if (!TshyveError.is(error, 'precondition')) throw error;
    return { missing: messageOf(error) };
  }
}
