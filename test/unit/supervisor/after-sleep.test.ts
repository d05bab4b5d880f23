import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import ssh2 from 'ssh2';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { createKeyPair } from '../../../driver/guest/index.js';
import { type VmSpec, selectHypervisor } from '../../../driver/hypervisor/index.js';
import { contact } from '../../../driver/network/index.js';
import { parseBootpdLeases } from '../../../driver/network/leases/index.js';
import { parseSubnet } from '../../../driver/network/shared/subnet.js';
import { attachNat } from '../../../driver/supervisor/nat-attachment.js';
import { supervisorPlace } from '../../../driver/supervisor/place.js';
import { Supervisor } from '../../../driver/supervisor/supervisor.js';
import { watchForWake } from '../../../driver/supervisor/wake-watch.js';
import { Bench } from '../hypervisor/bench.js';
import { elf, hang, print } from '../hypervisor/tiny-guest.js';

// A Mac's network, on loopback: before the sleep it is 127.80.64.0/24, after it 127.80.65.0/24.
const BEFORE = '127.80.64.7';
const AFTER = '127.80.65.3';
const MAC = '0a:03:c5:00:9f:41';
const id = '0123456789abcdef';
const cleanups: (() => unknown)[] = [];
const hostKey = createKeyPair('host');
const clientKey = createKeyPair('client');
const keyOnTheWire = hostKey.publicKey.split(' ')[1] ?? '';

let folder: string;
let leases: string;
/** Which network of macOS is up. */
let subnet: string;
/** By how much the clock has jumped. */
let sleptMs: number;
/** Commands the guest was given over SSH, by its address. */
let commands: { address: string; command: string }[];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tshyve-test-'));
  leases = join(folder, 'dhcpd_leases');
  subnet = '127.80.64.1/24';
  sleptMs = 0;
  commands = [];
  const realNow = Date.now.bind(Date);
  vi.spyOn(Date, 'now').mockImplementation(() => realNow() + sleptMs);
});
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true });
});

/** The guest's sshd at one of its addresses, which tells how far the clock is behind. */
async function sshd(address: string, port: number, key = hostKey): Promise<{ port: number; close: () => void }> {
  const clients = new Set<ssh2.Connection>();
  const server = new ssh2.Server({ hostKeys: [key.privateKey] }, (client) => {
    clients.add(client);
    client.on('error', () => undefined);
    client.on('authentication', (context) => {
      context.accept();
    });
    client.on('session', (accept) => {
      accept().on('exec', (take, _reject, { command }) => {
        commands.push({ address, command });
        const channel = take();
        channel.write('-90000\n');
        channel.exit(0);
        channel.end();
      });
    });
  });
  server.listen(port, address);
  await once(server, 'listening');
  const close = () => {
    for (const client of clients) client.end();
    server.close();
  };
  cleanups.push(close);
  const bound = server.address() as AddressInfo;
  return { port: bound.port, close };
}

/** As bootpd writes. */
function lease(address: string, octets = 'a:3:c5:0:9f:41'): string {
  const until = (Math.floor(Date.now() / 1000) + 86_400).toString(16);
  return `{\n\tname=dev\n\tip_address=${address}\n\thw_address=1,${octets}\n\tidentifier=1,${octets}\n\tlease=0x${until}\n}\n`;
}
function give(...blocks: string[]): void {
  writeFileSync(`${leases}-`, blocks.join(''));
  renameSync(`${leases}-`, leases);
}

/** A machine on macOS' NAT: all is real but that network, whose place QEMU's own takes, and the clock. */
async function supervise(sshPort: number): Promise<{ supervisor: Supervisor; log: string[]; statusFile: string }> {
  const bench = new Bench('qemu');
  cleanups.push(() => bench.close());
  const machineDirectory = join(bench.folder, 'machine');
  for (const path of [machineDirectory, join(bench.folder, id)]) mkdirSync(path);
  const kernel = join(bench.folder, 'kernel');
  writeFileSync(kernel, elf(print('\ntshyve-event: ssh\n'), hang()));
  const privateKeyFile = join(machineDirectory, 'id');
  writeFileSync(privateKeyFile, clientKey.privateKey, { mode: 0o600 });
  const user = bench.spec(kernel);
  const services = [
    { name: 'ssh', guestPort: sshPort },
    { name: 'docker', guestPort: 2376 },
  ];
  const spec: VmSpec = { ...user, network: { mode: 'nat', mac: MAC, hostname: 'dev', services } };
  const place = supervisorPlace({ machineDirectory, id }, bench.folder);
  const login = { username: 'docker', privateKeyFile, hostKey: keyOnTheWire };
  const log: string[] = [];
  const supervisor = new Supervisor(
    { machineDirectory, id, hypervisor: 'qemu', spec, login },
    place,
    (line) => log.push(line),
    {
      selectHypervisor: async (name) => {
        const real = await selectHypervisor(name);
        return {
          name: real.name,
          probe: (options) => real.probe(options),
          lacks: (extras) => real.lacks(extras),
          launch: (_, options) => real.launch(user, options),
        };
      },
      attach: (network, _, to) => {
        if (network.mode !== 'nat') throw new Error(`not on NAT but ${network.mode}`);
        return attachNat(network, to, {
          leases: { path: leases, parse: parseBootpdLeases },
          bridges: () => [{ name: 'bridge100', subnet: parseSubnet(subnet) ?? expect.fail(subnet) }],
          neighbours: () => Promise.resolve([]),
          contact: (address, port, signal) => contact(address, port, 500, signal),
        });
      },
      watchForWake: (onWake) => watchForWake(onWake, { wall: () => Date.now(), monotonic: () => performance.now() }),
    },
  );
  const gone = once(supervisor, 'gone');
  await supervisor.launch();
  cleanups.push(async () => {
    await supervisor.kill();
    await gone;
  });
  return { supervisor, log, statusFile: place.statusFile };
}

const reached = (supervisor: Supervisor) =>
  supervisor.status().forwards.map(({ name, hostAddress, hostPort }) => `${name} ${hostAddress}:${String(hostPort)}`);
const wait = { timeout: 20_000, interval: 50 };

test('after a sleep the new address is found, told to everybody, and the clock set there', async () => {
  const guest = await sshd(BEFORE, 0);
  const { port } = guest;
  const { supervisor, log, statusFile } = await supervise(port);
  give(lease(BEFORE));
  await expect
    .poll(() => reached(supervisor), wait)
    .toEqual([`ssh ${BEFORE}:${String(port)}`, `docker ${BEFORE}:2376`]);
  // The Mac sleeps for 25 hours; the network has other addresses then, and the lease comes a moment after the wake.
  guest.close();
  sleptMs = 25 * 3_600_000;
  subnet = '127.80.65.1/24';
  await expect.poll(() => supervisor.status().problem, wait).toMatch(/renumbered its network.*127\.80\.64\.7/);
  await sshd(AFTER, port);
  give(lease(AFTER), lease('127.80.65.9', 'a:3:c5:0:9f:42'));
  await expect.poll(() => reached(supervisor), wait).toEqual([`ssh ${AFTER}:${String(port)}`, `docker ${AFTER}:2376`]);
  await expect.poll(() => log, wait).toContain("The guest's clock was 90000 s behind and has been set");
  expect(commands.map(({ address }) => address)).toEqual([AFTER]);
  expect(commands[0]?.command).toContain('date -u -s @');
  await expect.poll(() => supervisor.status().problem, wait).toBe('');
  // What the driver answers `docker-machine ip` and `url` with.
  await expect
    .poll(() => JSON.parse(readFileSync(statusFile, 'utf8')) as unknown, wait)
    .toMatchObject({ hostAddress: AFTER, problem: '' });
  expect(
    supervisor
      .status()
      .events.filter(({ name }) => name === 'lease')
      .map(({ argument }) => argument),
  ).toEqual([BEFORE, AFTER]);
}, 60_000);

test('an address that still answers stays, although its lease is over; the clock is set', async () => {
  const { port } = await sshd(BEFORE, 0);
  const { supervisor, log } = await supervise(port);
  give(lease(BEFORE));
  await expect.poll(() => reached(supervisor)[0], wait).toBe(`ssh ${BEFORE}:${String(port)}`);
  sleptMs = 25 * 3_600_000;
  await expect.poll(() => log, wait).toContain("The guest's clock was 90000 s behind and has been set");
  expect(reached(supervisor)[0]).toBe(`ssh ${BEFORE}:${String(port)}`);
  expect(supervisor.status().problem).toBe('');
}, 60_000);

test('another machine that was given the address meanwhile is not taken for ours', async () => {
  const guest = await sshd(BEFORE, 0);
  const { port } = guest;
  const { supervisor } = await supervise(port);
  give(lease(BEFORE));
  await expect.poll(() => reached(supervisor)[0], wait).toBe(`ssh ${BEFORE}:${String(port)}`);
  const ours = lease(BEFORE);
  guest.close();
  sleptMs = 25 * 3_600_000;
  await sshd(BEFORE, port, createKeyPair('somebody else'));
  give(lease(BEFORE, 'a:3:c5:0:9f:42'), ours);
  await expect.poll(() => supervisor.status().problem, wait).toMatch(/host key at 127\.80\.64\.7.*not the one/);
  expect(commands).toEqual([]);
  await sshd('127.80.64.8', port);
  give(lease('127.80.64.8'), lease(BEFORE, 'a:3:c5:0:9f:42'));
  await expect.poll(() => reached(supervisor)[0], wait).toBe(`ssh 127.80.64.8:${String(port)}`);
  await expect.poll(() => commands.map(({ address }) => address), wait).toEqual(['127.80.64.8']);
  expect(supervisor.status().problem).toBe('');
}, 60_000);
