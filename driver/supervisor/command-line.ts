import { readFile } from 'node:fs/promises';

import { run } from '../base/index.js';

const TIMEOUT_MS = 5_000;

/** How a process was started, its words parted by some character; empty when there is no such process. */
export function commandLineOf(pid: number, platform: NodeJS.Platform = process.platform): Promise<string> {
  return platform === 'linux' ? fromProc(pid) : fromPs(pid);
}

function fromProc(pid: number): Promise<string> {
  return readFile(`/proc/${String(pid)}/cmdline`, 'utf8').catch(() => '');
}

/** macOS has no /proc. `-ww`: however long it is (ps(1) of both systems). */
async function fromPs(pid: number): Promise<string> {
  const result = await run('/bin/ps', ['-ww', '-o', 'command=', '-p', String(pid)], { timeoutMs: TIMEOUT_MS });
  return result.code === 0 ? result.stdout : '';
}
