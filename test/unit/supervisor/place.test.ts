import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type Server, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, expect, test } from 'vitest';

import { lockFile } from '../../../driver/base/index.js';
import { knownPlace, supervisorPlace } from '../../../driver/supervisor/place.js';
import { quickStatus } from '../../../driver/supervisor/status.js';

let folder: string;
let machine: { machineDirectory: string; id: string };
const before = process.env['TSHYVE_RUN_DIR'];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsp-'));
  machine = { machineDirectory: join(folder, 'machine'), id: '0123456789abcdef' };
  mkdirSync(machine.machineDirectory);
  process.env['TSHYVE_RUN_DIR'] = join(folder, 'run');
});
afterEach(() => {
  if (before === undefined) delete process.env['TSHYVE_RUN_DIR'];
  else process.env['TSHYVE_RUN_DIR'] = before;
  rmSync(folder, { recursive: true });
});

/** Does what a supervisor does that was started with another run folder. */
async function livingSupervisor(): Promise<{ server: Server; release: () => Promise<void> }> {
  const place = supervisorPlace(machine, join(folder, 'other'));
  const lock = await lockFile(place.lock);
  writeFileSync(place.lock, `${place.runDirectory}\n`);
  mkdirSync(place.runDirectory, { recursive: true, mode: 0o700 });
  const status = { state: 'paused', hostAddress: '127.64.0.1', forwards: [], hypervisor: 'auto', accelerator: 'tcg' };
  writeFileSync(
    place.statusFile,
    JSON.stringify({ ...status, supervisorPid: 1, vmPid: 0, startedAtMs: 1, events: [] }),
  );
  const server = createServer().listen(place.socket);
  await new Promise((listening) => server.once('listening', listening));
  return { server, release: () => lock.release() };
}

test('a supervisor with another run folder is found through its lock file', async () => {
  const { server, release } = await livingSupervisor();
  expect((await knownPlace(machine)).runDirectory).toBe(join(folder, 'other', machine.id));
  expect(await quickStatus(machine)).toMatchObject({ state: 'paused' });
  server.close();
  await release();
  expect(await quickStatus(machine)).toBeUndefined();
});

test.each(['', 'relative/0123456789abcdef', '/etc', '/run/\0', `/${'x'.repeat(500)}`])(
  'a lock file with %j means the usual place',
  async (note) => {
    writeFileSync(join(machine.machineDirectory, 'vmm.lock'), note);
    expect(await knownPlace(machine)).toEqual(supervisorPlace(machine));
  },
);
