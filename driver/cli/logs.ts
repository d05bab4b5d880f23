import { type FSWatcher, watch } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

import { TshyveError, codeOf, fileError } from '../base/index.js';
import type { Context } from './context.js';

const CHUNK_BYTES = 1 << 16;
/** As much of a log's end as is read to find its last lines. */
const MAX_TAIL_BYTES = 4 << 20;

export interface LogOptions {
  readonly supervisor?: boolean;
  readonly follow?: boolean;
  readonly lines: number;
}

/** `tshyve logs NAME`: the last lines of a machine's console or of its supervisor's log, and those that come. */
export async function logs(context: Context, name: string, options: LogOptions): Promise<void> {
  await context.store.load(name);
  const path = join(context.store.directory(name), options.supervisor === true ? 'vmm.log' : 'console.log');
  let offset = await printTail(path, options.lines);
  if (options.follow !== true) return;
  const { signal } = context.operation;
  let again: () => void = () => undefined;
  let watcher: FSWatcher | undefined;
  try {
    // The folder, not the file: a log is replaced when it is full.
    watcher = watch(dirname(path), (_event, changed) => {
      if (changed === null || changed === basename(path)) again();
    });
    const onAbort = () => {
      again();
    };
    signal.addEventListener('abort', onAbort);
    while (!signal.aborted) {
      const changed = new Promise<void>((resolve) => {
        again = resolve;
      });
      offset = await printFrom(path, offset);
      await changed;
    }
  } finally {
    watcher?.close();
  }
}

/** @returns the offset behind what was printed */
async function printTail(path: string, lines: number): Promise<number> {
  const file = await openLog(path);
  try {
    const { size } = await file.stat();
    const length = Math.min(size, MAX_TAIL_BYTES);
    const bytes = Buffer.alloc(length);
    const { bytesRead } = await file.read(bytes, 0, length, size - length);
    let start = bytesRead;
    // A line ends with its line feed, so the one at the very end begins no further line.
    for (let count = 0; count < lines && start > 0; count++) {
      start = start > 1 ? bytes.lastIndexOf(10, start - 2) + 1 : 0;
    }
    show(bytes.subarray(start, bytesRead));
    return size - length + bytesRead;
  } finally {
    await file.close();
  }
}

async function printFrom(path: string, offset: number): Promise<number> {
  const file = await openLog(path);
  try {
    const { size } = await file.stat();
    // A new file has taken the place of a full one.
    let at = size < offset ? 0 : offset;
    const bytes = Buffer.alloc(CHUNK_BYTES);
    for (;;) {
      const { bytesRead } = await file.read(bytes, 0, CHUNK_BYTES, at);
      if (bytesRead === 0) return at;
      show(bytes.subarray(0, bytesRead));
      at += bytesRead;
    }
  } finally {
    await file.close();
  }
}

/** A guest's output is not to be trusted with a terminal: control characters but tab and line end are left out. */
function show(bytes: Buffer): void {
  process.stdout.write(bytes.toString('latin1').replace(/[\0-\x08\x0b-\x1f\x7f-\x9f]/g, ''), 'latin1');
}

async function openLog(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r');
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw fileError(`read ${path}`, error);
    throw new TshyveError('not-found', `There is no ${path}: the machine has not run yet.`, { cause: error });
  }
}
