import { mkdir } from 'node:fs/promises';

import { type FileLock, TshyveError, fileError, lockFile } from '../base/index.js';
import type { MachineLayout } from './layout.js';

/** Longer than any clean-up of an operation whose client has died. */
const WAIT_MS = 40_000;

/** Runs a change of a machine while no other process changes it. @throws TshyveError `busy` */
export async function exclusively<T>(layout: MachineLayout, signal: AbortSignal, change: () => Promise<T>): Promise<T> {
  let lock: FileLock;
  try {
    await mkdir(layout.directory, { recursive: true, mode: 0o700 });
    lock = await lockFile(layout.operationLock, { timeoutMs: WAIT_MS, signal });
  } catch (error) {
    if (!TshyveError.is(error, 'busy')) throw fileError(`lock ${layout.directory}`, error);
    throw new TshyveError('busy', 'Another command is working on this machine. Wait for it to finish and try again.', {
      cause: error,
    });
  }
  try {
    return await change();
  } finally {
    await lock.release();
  }
}
