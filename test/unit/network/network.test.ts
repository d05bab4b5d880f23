import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { claimAddress, macFor, releaseAddress, uuidFor } from '../../../driver/network/index.js';

let home: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'tshyve-test-'));
  vi.stubEnv('TSHYVE_HOME', home);
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(home, { recursive: true });
});

test('a MAC is stable, unicast, locally administered, and of its store', () => {
  expect(macFor('/store', 'dev')).toBe(macFor('/store', 'dev'));
  expect(macFor('/store', 'dev')).not.toBe(macFor('/other', 'dev'));
  for (let index = 0; index < 100; index++) {
    const first = parseInt(macFor('/store', `m${String(index)}`).slice(0, 2), 16);
    expect(first & 3).toBe(2);
  }
  expect(uuidFor('/store', 'dev')).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
});

test('addresses are stable, distinct, and given back', async () => {
  const machines = Array.from({ length: 20 }, (_, index) => join(home, `m${String(index)}`));
  for (const machine of machines) mkdirSync(machine);
  const addresses = await Promise.all(machines.map((machine) => claimAddress(machine)));
  expect(new Set(addresses).size).toBe(20);
  for (const address of addresses) expect(address).toMatch(/^127\.(6[4-9]|[789]\d|1[01]\d|12[0-7])\.\d+\.\d+$/);
  expect(await claimAddress(machines[3] ?? '')).toBe(addresses[3]);
  for (const machine of machines) await releaseAddress(machine);
  expect(readdirSync(join(home, 'addresses'))).toEqual([]);
});

test('the reservation of a vanished machine is void', async () => {
  const machine = join(home, 'gone');
  mkdirSync(machine);
  const address = await claimAddress(machine);
  rmSync(machine, { recursive: true });
  mkdirSync(machine);
  expect(await claimAddress(machine)).toBe(address);
});
