import { type FSWatcher, watch } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, dirname } from 'node:path';

import { codeOf } from '../../base/index.js';
import type { Lease, LeaseParser } from './lease.js';

/** A lease file and its format. */
export interface LeaseFile {
  readonly path: string;
  readonly parse: LeaseParser;
}

/** A lease file is some hundred kilobytes at the very most. */
const MAX_BYTES = 8 << 20;
/** dnsmasq empties its file and writes it anew: in between, a reader finds nothing. */
const EMPTY_RETRY_MS = 10;
const EMPTY_RETRIES = 3;
/** The watch of a directory that is replaced goes blind, and a host may have run out of watches. */
const BACKSTOP_MS = 5_000;

/** Reads the leases of a file; a file that is missing or unreadable holds none. */
export async function readLeases(file: LeaseFile): Promise<Lease[]> {
  for (let attempt = 0; ; attempt++) {
    const text = await readText(file.path);
    if (text !== '' || attempt >= EMPTY_RETRIES) return file.parse(text);
    await new Promise((resolve) => setTimeout(resolve, EMPTY_RETRY_MS));
  }
}

async function readText(path: string): Promise<string> {
  try {
    const bytes = await readFile(path);
    return bytes.length > MAX_BYTES ? '' : bytes.toString('utf8');
  } catch (error) {
    const code = codeOf(error);
    if (code === 'ENOENT' || code === 'EACCES' || code === 'ENOTDIR') return '';
    throw error;
  }
}

/**
 * Calls back whenever a lease file may have changed, until the signal fires. The directory is watched, not the file:
 * servers replace it by rename(2). A directory that does not exist yet is waited for at its nearest parent.
 */
export function watchLeaseFile(path: string, onChange: () => void, signal: AbortSignal): void {
  let watcher: FSWatcher | undefined;
  let watched = '';
  const arm = () => {
    const folder = dirname(path);
    for (let candidate = folder; ; candidate = dirname(candidate)) {
      if (candidate === watched && watcher !== undefined) return;
      try {
        const next = watch(candidate, { persistent: false }, (_, name) => {
          if (watched !== folder) {
            arm();
            onChange();
          } else if (name === null || name.startsWith(basename(path))) onChange();
        });
        next.on('error', () => {
          if (watcher !== next) return;
          next.close();
          watcher = undefined;
        });
        watcher?.close();
        watcher = next;
        watched = candidate;
        return;
      } catch {
        if (candidate === dirname(candidate)) return;
      }
    }
  };
  if (signal.aborted) return;
  arm();
  const backstop = setInterval(() => {
    arm();
    onChange();
  }, BACKSTOP_MS);
  signal.addEventListener(
    'abort',
    () => {
      clearInterval(backstop);
      watcher?.close();
    },
    { once: true },
  );
}
