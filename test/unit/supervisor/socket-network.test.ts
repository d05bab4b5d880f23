import { mkdirSync, writeFileSync } from 'node:fs';
import { type Server, type Socket, createServer } from 'node:net';
import { join } from 'node:path';

import { afterEach, expect, test } from 'vitest';

import { type HypervisorName, type SocketNetworkSpec, hypervisorNames } from '../../../driver/hypervisor/index.js';
import { supervisorPlace } from '../../../driver/supervisor/place.js';
import { Supervisor } from '../../../driver/supervisor/supervisor.js';
import { Bench, nativeCannotRun } from '../hypervisor/bench.js';
import { elf, hang, print } from '../hypervisor/tiny-guest.js';

const id = '0123456789abcdef';
const cleanups: (() => unknown)[] = [];
/** The peer of a stream, which may go away and come back. */
class Peer {
  readonly #path: string;
  readonly #connections = new Set<Socket>();
  #server: Server | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  async open(): Promise<void> {
    const server = createServer((socket) => {
      this.#connections.add(socket);
      socket.on('error', () => undefined).resume();
    });
    await new Promise<void>((resolve) => server.listen(this.#path, resolve));
    this.#server = server;
  }

  close(): void {
    this.#server?.close();
    for (const socket of this.#connections) socket.destroy();
    this.#connections.clear();
  }
}

let peer: Peer;
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const ssh = { name: 'ssh', guestPort: 22 };
const docker = { name: 'docker', guestPort: 2376 };

/** Supervises a real machine whose guest prints this. */
async function supervise(
  text: string,
  change: Partial<SocketNetworkSpec>,
  hypervisor: HypervisorName = 'qemu',
): Promise<Supervisor> {
  const bench = new Bench(hypervisor);
  cleanups.push(() => bench.close());
  const machineDirectory = join(bench.folder, 'machine');
  for (const folder of [machineDirectory, join(bench.folder, id)]) mkdirSync(folder);
  const kernel = join(bench.folder, 'kernel');
  writeFileSync(kernel, elf(print(text), hang()));
  const spec = bench.spec(kernel);
  const { mac, hostname } = spec.network;
  const path = join(bench.folder, 'peer');
  const network: SocketNetworkSpec = {
    ...{ mode: 'socket', framing: 'datagram', path, mac, hostname, services: [ssh, docker] },
    ...change,
  };
  peer = new Peer(path);
  if (network.framing !== 'datagram') {
    await peer.open();
    cleanups.push(() => {
      peer.close();
    });
  }
  const request = { machineDirectory, id, hypervisor, spec: { ...spec, network } };
  const place = supervisorPlace({ machineDirectory, id }, bench.folder);
  const supervisor = new Supervisor(request, place, () => undefined);
  const gone = new Promise((resolve) => supervisor.once('gone', resolve));
  await supervisor.launch();
  cleanups.push(async () => {
    await supervisor.kill();
    await gone;
  });
  await expect.poll(() => supervisor.status().events.some(({ name }) => name === 'ssh')).toBe(true);
  return supervisor;
}

/** What a guest reports, ending with the event that is waited for. */
const says = (...addresses: string[]) =>
  [...addresses.map((address) => `address ${address}`), 'ssh'].map((event) => `\ntshyve-event: ${event}\n`).join('');
const reached = (supervisor: Supervisor) =>
  supervisor.status().forwards.map(({ name, hostAddress, hostPort }) => `${name} ${hostAddress}:${String(hostPort)}`);

test('where nobody sees DHCP, the guest says its address', async () => {
  const supervisor = await supervise(says('192.0.2.7'), {});
  await expect.poll(() => reached(supervisor)).toEqual(['ssh 192.0.2.7:22', 'docker 192.0.2.7:2376']);
  expect(supervisor.status().hostAddress).toBe('192.0.2.7');
});

test('an address that no machine can have is not believed', async () => {
  const supervisor = await supervise(says('127.0.0.1', '0.0.0.0', '224.0.0.1', '255.255.255.255', '1.2.3', '::1'), {});
  expect(reached(supervisor)).toEqual([]);
});

test.each(['datagram', 'stream'] as const)('what a %s peer forwards is known at once', async (framing) => {
  const at = { hostAddress: '127.0.0.1', hostPort: 2222 };
  const services = [
    { ...ssh, at },
    { ...docker, at: { ...at, hostPort: 2376 } },
  ];
  const supervisor = await supervise(says('192.0.2.7'), { framing, services });
  expect(reached(supervisor)).toEqual(['ssh 127.0.0.1:2222', 'docker 127.0.0.1:2376']);
  expect(supervisor.status().hostAddress).toBe('127.0.0.1');
});

test('a resumed guest is where it was', async () => {
  const supervisor = await supervise(says(), { address: '192.0.2.9' });
  await expect.poll(() => reached(supervisor)).toEqual(['ssh 192.0.2.9:22', 'docker 192.0.2.9:2376']);
});

test.each(hypervisorNames.filter((name) => name !== 'native' || !nativeCannotRun))(
  'on %s, a peer that is away is a problem of the machine until it is back',
  async (hypervisor) => {
    const supervisor = await supervise(says(), { framing: 'stream' }, hypervisor);
    const problem = () => supervisor.status().problem;
    expect(problem()).toBe('');
    peer.close();
    await expect.poll(problem).toContain('peer is away: start it again');
    await peer.open();
    await expect.poll(problem).toBe('');
  },
);
