import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, test } from 'vitest';

import {
  type DiscoverOptions,
  discoverAddress,
  parseDnsmasqLeases,
  readBaseline,
} from '../../../../driver/network/leases/index.js';

const MAC = '02:00:00:00:00:01';
let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tshyve-test-'));
  path = join(folder, 'leases');
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

const line = (address: string, seconds = 3600, mac = MAC) =>
  `${String(Math.floor(Date.now() / 1000) + seconds)} ${mac} ${address} dev 01:${mac}\n`;

function discover(options: Partial<DiscoverOptions> = {}): Promise<string> {
  return discoverAddress({
    mac: MAC,
    files: [{ path, parse: parseDnsmasqLeases }],
    before: [],
    timeoutMs: 5000,
    signal: new AbortController().signal,
    ...options,
  });
}
const later = (act: () => void) => setTimeout(act, 50);

describe('discovery', () => {
  test('a lease that is there already', async () => {
    writeFileSync(path, line('10.0.0.5'));
    expect(await discover()).toBe('10.0.0.5');
  });
  test('a file that appears', async () => {
    later(() => {
      writeFileSync(path, line('10.0.0.5'));
    });
    expect(await discover()).toBe('10.0.0.5');
  });
  test('a file that is replaced', async () => {
    writeFileSync(path, '');
    later(() => {
      writeFileSync(`${path}-`, line('10.0.0.5'));
      renameSync(`${path}-`, path);
    });
    expect(await discover()).toBe('10.0.0.5');
  });
  test('a folder that appears', async () => {
    path = join(folder, 'a', 'b', 'leases');
    later(() => {
      mkdirSync(join(folder, 'a', 'b'), { recursive: true });
      writeFileSync(path, line('10.0.0.5'));
    });
    expect(await discover()).toBe('10.0.0.5');
  });
  test('a lease of an earlier boot is not believed without contact', async () => {
    writeFileSync(path, line('10.0.0.5'));
    const before = await readBaseline([{ path, parse: parseDnsmasqLeases }]);
    await expect(discover({ before, timeoutMs: 200 })).rejects.toMatchObject({ kind: 'timeout' });
    later(() => {
      writeFileSync(path, line('10.0.0.6', 7200));
    });
    expect(await discover({ before })).toBe('10.0.0.6');
    expect(await discover({ before, confirm: () => Promise.resolve(true) })).toBe('10.0.0.6');
  });
  test('an address that does not answer is passed over', async () => {
    writeFileSync(path, line('10.0.0.7', 9000) + line('10.0.0.8'));
    const asked: string[] = [];
    const confirm = (address: string) => {
      asked.push(address);
      return Promise.resolve(address === '10.0.0.8');
    };
    expect(await discover({ confirm })).toBe('10.0.0.8');
    expect(asked).toEqual(['10.0.0.7', '10.0.0.8']);
  });
  test('cancelling ends the wait and the watch', async () => {
    const controller = new AbortController();
    const waiting = discover({ signal: controller.signal });
    later(() => {
      controller.abort();
    });
    await expect(waiting).rejects.toMatchObject({ kind: 'cancelled' });
  });
  test('a change is told by the kernel, not found by the backstop', async () => {
    writeFileSync(path, '');
    const waiting = discover({ timeoutMs: 2500 });
    await new Promise((resolve) => setTimeout(resolve, 30));
    writeFileSync(path, line('10.0.0.9'));
    expect(await waiting).toBe('10.0.0.9');
  });
});
