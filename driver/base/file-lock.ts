import { spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';

import { TshyveError, codeOf, fileError } from './errors.js';

/** A lock that the kernel frees when its holder dies, however it dies. */
export interface FileLock {
  readonly path: string;
  /** The locked descriptor; a child that inherits it shares the lock. */
  readonly fd: number;
  release(): Promise<void>;
}

// <fcntl.h> of macOS: open(2) takes the lock itself. Node passes unknown open flags through.
const O_EXLOCK_DARWIN = 0x20;

/**
 * Takes an exclusive flock(2) on a file (made if missing, never deleted: deleting a lock file lets two holders in).
 * Node has no flock call. On macOS open(2) can lock; on Linux the lock belongs to the open file description, so the
 * `flock` program of util-linux can take it on our descriptor and leave.
 * @param options.timeoutMs how long to wait for another holder; 0 (default) fails at once
 * @throws TshyveError `busy` when another process holds it after the wait
 */
export async function lockFile(
  path: string,
  options: { timeoutMs?: number; signal?: AbortSignal } = {},
): Promise<FileLock> {
  const timeoutMs = options.timeoutMs ?? 0;
  const file =
    process.platform === 'darwin'
      ? await openLocked(path, timeoutMs, options.signal)
      : await openThenLock(path, timeoutMs, options.signal);
  let released = false;
  return {
    path,
    fd: file.fd,
    release: async () => {
      if (released) return;
      released = true;
      await file.close();
    },
  };
}

/** True when some process holds the lock now. */
export async function isLocked(path: string): Promise<boolean> {
  try {
    const lock = await lockFile(path);
    await lock.release();
    return false;
  } catch (error) {
    if (TshyveError.is(error, 'busy')) return true;
    // The folder of the lock is gone.
    if (error instanceof Error && codeOf(error.cause) === 'ENOENT') return false;
    throw error;
  }
}

function busy(path: string): TshyveError {
  return new TshyveError('busy', `Another process holds ${path}. Wait for it to finish and try again.`);
}

async function openThenLock(path: string, timeoutMs: number, signal?: AbortSignal): Promise<FileHandle> {
  let file: FileHandle;
  try {
    file = await open(path, constants.O_RDWR | constants.O_CREAT, 0o600);
  } catch (error) {
    throw fileError(`open the lock ${path}`, error);
  }
  const wait = timeoutMs === 0 ? ['--nonblock'] : ['--timeout', (timeoutMs / 1000).toFixed(3)];
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      const child = spawn('flock', ['--exclusive', ...wait, '3'], { stdio: ['ignore', 'ignore', 'ignore', file.fd] });
      const onAbort = () => {
        child.kill('SIGKILL');
        reject(new TshyveError('cancelled', `Waiting for ${path} was cancelled.`));
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      child.on('error', reject);
      child.on('close', (exit) => {
        signal?.removeEventListener('abort', onAbort);
        resolve(exit);
      });
    });
    if (code === 1) throw busy(path);
    if (code !== 0) throw new TshyveError('internal', `flock on ${path} ended with exit code ${String(code)}.`);
    return file;
  } catch (error) {
    await file.close();
    if (codeOf(error) === 'ENOENT') {
      throw new TshyveError('precondition', 'The program "flock" (package util-linux) is missing. Install it first.', {
        cause: error,
      });
    }
    throw error;
  }
}

async function openLocked(path: string, timeoutMs: number, signal?: AbortSignal): Promise<FileHandle> {
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NONBLOCK | O_EXLOCK_DARWIN;
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    try {
      return await open(path, flags, 0o600);
    } catch (error) {
      if (codeOf(error) !== 'EAGAIN') throw fileError(`open the lock ${path}`, error);
    }
    if (performance.now() >= deadline) throw busy(path);
    if (signal?.aborted === true) throw new TshyveError('cancelled', `Waiting for ${path} was cancelled.`);
    // macOS offers no wake-up for a freed O_EXLOCK without blocking a thread of Node's small pool.
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
