import { fstatSync } from 'node:fs';
import { mkdir, stat } from 'node:fs/promises';

import { type FileLock, TshyveError, exists, fileError, lockFile } from '../base/index.js';
import type { MachineLayout } from './layout.js';

/** Longer than any clean-up of an operation whose client has died. */
const WAIT_MS = 40_000;

/**
 * Runs a change of a machine while no other process changes it.
 * @param options.make makes the machine's folder when there is none
 * @throws TshyveError `busy`; `not-found` when there is no folder, or it is removed while we wait
 */
export async function exclusively<T>(
  layout: MachineLayout,
  options: { readonly signal: AbortSignal; readonly make?: boolean },
  change: () => Promise<T>,
): Promise<T> {
  let lock: FileLock;
  try {
    lock = await lockCurrent(layout, options);
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

/** A remove takes the folder away, lock file and all: whoever waited for it then holds the lock of a file that is gone. */
async function lockCurrent(
  layout: MachineLayout,
  options: { readonly signal: AbortSignal; readonly make?: boolean },
): Promise<FileLock> {
  for (;;) {
    if (options.make === true) await mkdir(layout.directory, { recursive: true, mode: 0o700 });
    else if (!(await exists(layout.directory))) {
      throw new TshyveError('not-found', `The machine was not found: ${layout.directory} does not exist.`);
    }
    let lock: FileLock;
    try {
      lock = await lockFile(layout.operationLock, { timeoutMs: WAIT_MS, signal: options.signal });
    } catch (error) {
      // Removed between the look and the lock.
      if (await exists(layout.directory)) throw error;
      continue;
    }
    const found = await stat(layout.operationLock).catch(() => undefined);
    if (found?.ino === fstatSync(lock.fd).ino) return lock;
    await lock.release();
  }
}
