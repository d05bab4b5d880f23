import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, expect, test } from 'vitest';

import { TshyveError, isLocked, lockFile, run, within, writeFileAtomic } from '../../../driver/base/index.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tshyve-test-'));
});
afterEach(async () => {
  await rm(folder, { recursive: true });
});

test('an atomic write replaces the file with the given mode and leaves nothing else', async () => {
  const path = join(folder, 'file');
  await writeFile(path, 'old');
  await writeFileAtomic(path, 'new');
  expect(await readFile(path, 'utf8')).toBe('new');
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  expect(await readdir(folder)).toEqual(['file']);
});

test('a failed atomic write keeps the old file and says why', async () => {
  await expect(writeFileAtomic(join(folder, 'missing', 'file'), 'x')).rejects.toThrow(/Cannot write .*missing/);
});

test('a lock excludes others, can be waited for, and is free after its release', async () => {
  const path = join(folder, 'lock');
  const lock = await lockFile(path);
  await expect(lockFile(path)).rejects.toSatisfy((error) => TshyveError.is(error, 'busy'));
  expect(await isLocked(path)).toBe(true);
  const waiting = lockFile(path, { timeoutMs: 5000 });
  await lock.release();
  await (await waiting).release();
  expect(await isLocked(path)).toBe(false);
});

test('the kernel frees the lock of a killed process', async () => {
  const path = join(folder, 'lock');
  const holder: ChildProcess = spawn('flock', [path, 'sleep', '60'], { stdio: 'ignore', detached: true });
  await expect.poll(() => isLocked(path)).toBe(true);
  process.kill(-(holder.pid ?? 0), 'SIGKILL');
  await once(holder, 'exit');
  await expect.poll(() => isLocked(path)).toBe(false);
});

test('a program that runs too long is ended', async () => {
  await expect(run('sleep', ['60'], { timeoutMs: 50 })).rejects.toThrow('did not finish within 50 ms');
});

test('a missing program is named with the fix', async () => {
  await expect(run('no-such-program', [])).rejects.toThrow('"no-such-program" was not found on the PATH. Install it');
});

test('a wait that runs out says what it waited for', async () => {
  await expect(within(new Promise(() => undefined), 10, 'the moon')).rejects.toThrow('Gave up waiting for the moon');
});
