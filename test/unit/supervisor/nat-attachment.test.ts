import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import type { NatNetworkSpec } from '../../../driver/hypervisor/index.js';
import type { Neighbour } from '../../../driver/network/index.js';
import { parseBootpdLeases } from '../../../driver/network/leases/index.js';
import { parseSubnet } from '../../../driver/network/shared/subnet.js';
import { type NatSources, attachNat } from '../../../driver/supervisor/nat-attachment.js';

const MAC = '0a:03:c5:00:9f:41';
const network: NatNetworkSpec = {
  mode: 'nat',
  mac: MAC,
  hostname: 'dev',
  services: [{ name: 'ssh', guestPort: 22 }],
};
const bridge = (text: string) => ({ name: 'bridge100', subnet: parseSubnet(text) ?? expect.fail(text) });

let folder: string;
let path: string;
/** Where somebody answers; the others have no route. */
let answering: Set<string>;
let subnets: ReturnType<typeof bridge>[];
let table: Neighbour[];
let told: string[];
let problems: string[];
let lines: string[];
let detach: (() => Promise<void>) | undefined;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tshyve-test-'));
  path = join(folder, 'dhcpd_leases');
  answering = new Set();
  subnets = [bridge('192.168.64.1/24')];
  table = [];
  told = [];
  problems = [];
  lines = [];
});
afterEach(async () => {
  await detach?.();
  detach = undefined;
  vi.useRealTimers();
  rmSync(folder, { recursive: true });
});

let renewals = 0;
const block = (address: string, octets = 'a:3:c5:0:9f:41', fields = '') => {
  const lease = (Math.floor(Date.now() / 1000) + 86_400 + renewals++).toString(16);
  return `{\n\tname=dev\n\tip_address=${address}\n\thw_address=1,${octets}\n\tidentifier=1,${octets}\n\tlease=0x${lease}\n${fields}}\n`;
};
/** As bootpd writes. */
const give = (...blocks: string[]) => {
  writeFileSync(`${path}-`, blocks.join(''));
  renameSync(`${path}-`, path);
};
const follow = async (spec: NatNetworkSpec = network) => {
  const sources: NatSources = {
    leases: { path, parse: parseBootpdLeases },
    bridges: () => subnets,
    neighbours: () => Promise.resolve(table),
    contact: (address) =>
      Promise.resolve(answering.has(address) ? { answered: true } : { answered: false, code: 'EHOSTUNREACH' }),
  };
  const log = { info: (line: string) => lines.push(line), debug: () => undefined };
  const attachment = await attachNat(spec, log, sources, 20);
  detach = () => attachment.detach();
  attachment.watch(
    (address) => told.push(address),
    (problem) => problems.push(problem),
  );
};

test('a lease counts once the machine answers there', async () => {
  await follow();
  give(block('192.168.64.7'));
  await expect.poll(() => lines).toEqual(['The machine does not answer at 192.168.64.7 yet (EHOSTUNREACH).']);
  expect(told).toEqual([]);
  expect(problems[0]).toMatch(/no route to 192\.168\.64\.7: if that lasts, allow/);
  answering.add('192.168.64.7');
  await expect.poll(() => told).toEqual(['192.168.64.7']);
  expect(problems.at(-1)).toBe('');
});

test('a lease of the boot before counts as well, when it answers', async () => {
  give(block('192.168.64.7'));
  answering.add('192.168.64.7');
  await follow();
  await expect.poll(() => told).toEqual(['192.168.64.7']);
});

test.each([
  ['of another machine', () => block('192.168.64.8', 'a:3:c5:0:9f:42')],
  ['in conflict', () => block('192.168.64.8', 'a:3:c5:0:9f:41', '\tdeclined=1,a:3:c5:0:9f:41\n')],
  ['of another network', () => block('192.168.105.8')],
  [
    'with a DUID and our name',
    () => block('192.168.64.8').replaceAll('1,a:3:c5:0:9f:41', 'ff,8c:1:22:7:0:2:0:0:ab:11'),
  ],
])('one %s is passed over, though somebody answers', async (_, foreign) => {
  for (const address of ['192.168.64.8', '192.168.105.8', '192.168.64.7']) answering.add(address);
  await follow();
  give(foreign());
  give(foreign(), block('192.168.64.7'));
  await expect.poll(() => told).toEqual(['192.168.64.7']);
});

test('the neighbour table is asked when no lease tells', async () => {
  table = [
    { mac: '02:00:00:00:00:09', address: '192.168.64.9', device: 'bridge100' },
    { mac: MAC, address: '192.168.105.7', device: 'bridge100' },
    { mac: MAC, address: '192.168.64.7', device: 'bridge100' },
  ];
  for (const { address } of table) answering.add(address);
  await follow();
  await expect.poll(() => told).toEqual(['192.168.64.7']);
});

test('after a sleep: another lease of another network is noticed, a renewal is none', async () => {
  give(block('192.168.64.7'));
  answering.add('192.168.64.7');
  await follow();
  await expect.poll(() => told).toEqual(['192.168.64.7']);
  // Renewed: the same address for longer.
  give(block('192.168.64.7'));
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(told).toEqual(['192.168.64.7']);
  // The Mac slept for a day, and macOS made its network anew meanwhile: the clock jumps, old leases are over.
  const now = Date.now();
  vi.spyOn(Date, 'now').mockImplementation(() => now + 25 * 3_600_000);
  subnets = [bridge('192.168.65.1/24')];
  answering.delete('192.168.64.7');
  answering.add('192.168.65.3');
  give(block('192.168.65.3'), block('192.168.64.7'));
  await expect.poll(() => told).toEqual(['192.168.64.7', '192.168.65.3']);
  vi.restoreAllMocks();
});

test('a network that is renumbered under a running machine is told, with what to do, until the machine is reached', async () => {
  give(block('192.168.64.7'));
  answering.add('192.168.64.7');
  await follow();
  await expect.poll(() => told).toEqual(['192.168.64.7']);
  // The guest's lease is good for hours: it asks for no other, and nothing of the file changes.
  subnets = [bridge('192.168.65.1/24')];
  answering.delete('192.168.64.7');
  await expect.poll(() => problems.at(-1)).toMatch(/renumbered its network.*192\.168\.64\.7.*"tshyve restart"/);
  // Told once, not at each look.
  const before = problems.length;
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(problems).toHaveLength(before);
  expect(lines.filter((line) => line.includes('any more'))).toHaveLength(1);
  // Somebody has restarted the guest's network.
  answering.add('192.168.65.3');
  give(block('192.168.65.3'), block('192.168.64.7'));
  await expect.poll(() => told).toEqual(['192.168.64.7', '192.168.65.3']);
  expect(problems.at(-1)).toBe('');
});

test('a network that was away for a moment is no matter once the machine answers again', async () => {
  give(block('192.168.64.7'));
  answering.add('192.168.64.7');
  await follow();
  await expect.poll(() => told).toEqual(['192.168.64.7']);
  subnets = [bridge('192.168.65.1/24')];
  await expect.poll(() => problems.at(-1)).toMatch(/renumbered/);
  subnets = [bridge('192.168.64.1/24')];
  give(block('192.168.64.7'));
  await expect.poll(() => problems.at(-1)).toBe('');
  expect(told).toEqual(['192.168.64.7']);
});

test('no network at all to tell by is no reason for doubt', async () => {
  give(block('192.168.64.7'));
  answering.add('192.168.64.7');
  await follow();
  await expect.poll(() => told).toEqual(['192.168.64.7']);
  subnets = [];
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(problems.filter((problem) => problem !== '')).toEqual([]);
});

test('an address that is known from before a suspend is told at once, and replaced when it changes', async () => {
  await follow({ ...network, address: '192.168.64.5' });
  expect(told).toEqual(['192.168.64.5']);
  answering.add('192.168.64.6');
  give(block('192.168.64.6'));
  await expect.poll(() => told).toEqual(['192.168.64.5', '192.168.64.6']);
});

test('detaching ends the look', async () => {
  await follow();
  await detach?.();
  answering.add('192.168.64.7');
  give(block('192.168.64.7'));
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(told).toEqual([]);
});
