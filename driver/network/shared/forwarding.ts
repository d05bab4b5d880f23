import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';

import { lockFile, writeFileAtomic } from '../../base/index.js';
import { networksFolder } from './definition.js';
import { hasIPv6, setSysctl } from './host.js';

const LOCK_TIMEOUT_MS = 10_000;

/**
 * Lets the host forward packets, and remembers how it was before. The memory belongs to the host, not to a network:
 * the first network that comes up writes it, the last one that goes down puts it back, and a keeper that dies loses
 * nothing of it.
 */
export async function enableForwarding(): Promise<void> {
  await underLock(async (path) => {
    const before = await readSettings(path);
    const change = async (name: string, value: string) => {
      const was = await setSysctl(name, value);
      if (was !== undefined && !before.has(name)) before.set(name, was);
    };
    await change('net/ipv4/ip_forward', '1');
    if (await hasIPv6()) await change('net/ipv6/conf/all/forwarding', '1');
    await writeFileAtomic(path, `${JSON.stringify(Object.fromEntries(before))}\n`, 0o644);
  });
}

/** Puts the host's settings back, unless another network still needs them. */
export async function restoreForwarding(othersAreUp: () => Promise<boolean>): Promise<void> {
  await underLock(async (path) => {
    if (await othersAreUp()) return;
    for (const [name, value] of await readSettings(path)) await setSysctl(name, value);
    await rm(path, { force: true });
  });
}

async function underLock(act: (path: string) => Promise<void>): Promise<void> {
  const lock = await lockFile(join(networksFolder(), '.lock'), { timeoutMs: LOCK_TIMEOUT_MS });
  try {
    await act(join(networksFolder(), '.settings-before.json'));
  } finally {
    await lock.release();
  }
}

async function readSettings(path: string): Promise<Map<string, string>> {
  try {
    const value: unknown = JSON.parse(await readFile(path, 'utf8'));
    const entries = typeof value === 'object' && value !== null ? Object.entries(value) : [];
    return new Map(
      entries.filter((entry): entry is [string, string] => {
        return /^net\/[a-z0-9/_]+$/.test(entry[0]) && typeof entry[1] === 'string' && /^\d+$/.test(entry[1]);
      }),
    );
  } catch {
    return new Map();
  }
}
