import { TshyveError } from './errors.js';

/**
 * Waits for a promise, at most `timeoutMs`, and not longer than the signal lets us.
 * @param what what is waited for, as a noun phrase: it ends up in the error message
 * @throws TshyveError `timeout` or `cancelled`; whatever the promise rejects with
 */
export async function within<T>(
  promise: Promise<T>,
  timeoutMs: number,
  what: string,
  signal?: AbortSignal,
): Promise<T> {
  // The loser of the race below must not surface as an unhandled rejection.
  promise.catch(() => undefined);
  let timer: NodeJS.Timeout | undefined;
  let onAbort: (() => void) | undefined;
  try {
    return await Promise.race([
      promise,
      new Promise<never>((_, reject) => {
        if (signal?.aborted === true) {
          reject(cancelled(what));
          return;
        }
        timer = setTimeout(() => {
          reject(new TshyveError('timeout', `Gave up waiting for ${what} after ${formatSeconds(timeoutMs)}.`));
        }, timeoutMs);
        onAbort = () => {
          reject(cancelled(what));
        };
        signal?.addEventListener('abort', onAbort, { once: true });
      }),
    ]);
  } finally {
    clearTimeout(timer);
    if (onAbort !== undefined) signal?.removeEventListener('abort', onAbort);
  }
}

/** Sleeps; rejects with `cancelled` as soon as the signal fires. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(cancelled('a pause'));
      return;
    }
    const onAbort = () => {
      clearTimeout(timer);
      reject(cancelled('a pause'));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, ms);
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}

function cancelled(what: string): TshyveError {
  return new TshyveError('cancelled', `Waiting for ${what} was cancelled.`);
}

/** `1500` → `1.5 s`. */
export function formatSeconds(ms: number): string {
  return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
}
