import { type FSWatcher, watch } from 'node:fs';
import { realpath } from 'node:fs/promises';
import { basename, dirname } from 'node:path';

/** Programs that write resolv.conf do so in several steps. */
const SETTLE_MS = 100;

/**
 * Calls back when the host's resolv.conf changes: written in place, replaced by rename(2), or pointed elsewhere. (VPN
 * clients do all three.) Ends with the signal.
 */
export function watchResolver(path: string, onChange: () => void, signal: AbortSignal): void {
  let watchers: FSWatcher[] = [];
  let timer: NodeJS.Timeout | undefined;
  const close = () => {
    for (const watcher of watchers) watcher.close();
    watchers = [];
  };
  const arm = async () => {
    const target = await realpath(path).catch(() => path);
    if (signal.aborted) return;
    close();
    // The file itself catches writes through a bind mount, whose events its folder does not see.
    for (const place of new Set([target, dirname(target), dirname(path)])) {
      try {
        const watcher = watch(place, { persistent: false }, (_, name) => {
          const isFolder = place !== target;
          if (!isFolder || name === null || name === basename(path) || name === basename(target)) settle();
        });
        watcher.on('error', () => undefined);
        watchers.push(watcher);
      } catch {
        // Missing right now; its folder tells when it comes.
      }
    }
  };
  const settle = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      void arm();
      onChange();
    }, SETTLE_MS);
  };
  void arm();
  signal.addEventListener(
    'abort',
    () => {
      clearTimeout(timer);
      close();
    },
    { once: true },
  );
}
