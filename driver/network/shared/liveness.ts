import { readFile } from 'node:fs/promises';

import { TshyveError, exists, isLocked } from '../../base/index.js';
import { networkNames, networkPlace } from './definition.js';

/** True while the keeper of a network lives. */
export async function isUp(name: string): Promise<boolean> {
  const { lock, status } = networkPlace(name);
  if (!(await exists(lock))) return false;
  try {
    return await isLocked(lock);
  } catch (error) {
    if (!TshyveError.is(error, 'precondition')) throw error;
    // Root's lock, and we are somebody else: the status file is there as long as the keeper is.
    const pid = keeperPid(await readFile(status, 'utf8').catch(() => ''));
    return pid !== undefined && (await exists(`/proc/${String(pid)}`));
  }
}

/** True when a network of the host other than this one is up. */
export async function othersAreUp(name: string): Promise<boolean> {
  for (const other of await networkNames()) {
    if (other !== name && !networkPlace(other).rootless && (await isUp(other))) return true;
  }
  return false;
}

/** The keeper's process id in the text of a status file. */
export function keeperPid(text: string): number | undefined {
  try {
    const value: unknown = JSON.parse(text);
    const pid = typeof value === 'object' && value !== null && 'keeperPid' in value ? value.keeperPid : undefined;
    return typeof pid === 'number' && Number.isInteger(pid) && pid > 1 ? pid : undefined;
  } catch {
    return undefined;
  }
}
