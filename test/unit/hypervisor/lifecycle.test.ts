import { once } from 'node:events';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { type AddressInfo, type Server, type Socket, connect, createServer } from 'node:net';
import { join } from 'node:path';

import { afterAll, describe, expect, test } from 'vitest';

import type { VmSpec } from '../../../driver/hypervisor/index.js';
import { VpnkitPeer } from '../../vpnkit-peer.js';
import { Bench, nativeCannotRun } from './bench.js';
import { alphabet, delay, hang, print, reset, tripleFault } from './tiny-guest.js';

/** What every backend does alike, with a real machine each. */
describe.each([
  { name: 'native', cannotRun: nativeCannotRun },
  { name: 'qemu', cannotRun: false },
] as const)('$name', ({ name, cannotRun }) => {
  describe.skipIf(cannotRun)('a machine', () => {
    const bench = new Bench(name);
    afterAll(() => bench.close());

    /** With a disk, and the ports of a machine that serves SSH. */
    const withDevices = (hostPorts: readonly number[]) => (spec: VmSpec) => {
      const disk = join(bench.folder, 'disk.img');
      writeFileSync(disk, '');
      truncateSync(disk, 1 << 20);
      return {
        ...spec,
        disks: [{ id: 'data', path: disk, readOnly: false }],
        network: { ...spec.network, forwards: [{ name: 'ssh', guestPort: 22, hostPorts }] },
      };
    };

    test.each([
      ['asks for it', reset()],
      ['makes a triple fault', tripleFault()],
    ])('restarts in place when the guest %s, until it is killed', async (_, code) => {
      const { machine, console, log } = await bench.launch([print('boot\n'), delay(100_000), code]);
      await expect.poll(console).toMatch(/(boot[^]*){3}/);
      await machine.kill();
      expect(await machine.exited).toEqual({ reason: 'killed', detail: 'The machine was ended by request.' });
      expect(log.filter((line) => line.includes('restart')).length).toBeGreaterThan(1);
    });

    test('listens at the first host port that is free, also after a restart of the guest, and no longer', async () => {
      const address = '127.64.99.1';
      const taken = createServer().listen(0, address);
      await once(taken, 'listening');
      const { port } = taken.address() as AddressInfo;
      try {
        const { machine, console } = await bench.launch([print('boot\n'), delay(100_000), reset()], {
          change: withDevices([port, 0]),
        });
        const [forward] = machine.forwards;
        expect(forward).toMatchObject({ name: 'ssh', guestPort: 22, hostAddress: address });
        expect(forward?.hostPort).not.toBe(port);
        await expect.poll(console).toMatch(/(boot[^]*){3}/);
        expect(machine.forwards).toEqual([forward]);
        // The guest restarts all the time; in between nobody listens for a moment.
        await expect.poll(() => connects(address, forward?.hostPort ?? 0)).toBe(true);
        await machine.kill();
        expect(await connects(address, forward?.hostPort ?? 0)).toBe(false);
        await expect(bench.launch([hang()], { change: withDevices([port]) })).rejects.toMatchObject({
          kind: 'precondition',
          message: expect.stringContaining(`${address}:${String(port)}`) as string,
        });
      } finally {
        taken.close();
      }
    });

    test('ports are added and removed while it runs, and survive a restart of the guest', async () => {
      const address = '127.64.99.1';
      const { machine, console } = await bench.launch([print('boot\n'), delay(100_000), reset()], {
        change: withDevices([0]),
      });
      const port = await freePort(address);
      const added = await machine.addForward({ name: 'added', guestPort: 80, hostPorts: [port] });
      expect(added).toEqual({ name: 'added', guestPort: 80, hostAddress: address, hostPort: port, protocol: 'tcp' });
      const udp = await machine.addForward({ name: 'added', guestPort: 53, hostPorts: [port], protocol: 'udp' });
      expect(udp).toMatchObject({ hostPort: port, protocol: 'udp' });
      expect(machine.forwards.map(({ name }) => name)).toEqual(['ssh', 'added', 'added']);
      const clash = machine.addForward({ name: 'added', guestPort: 81, hostPorts: [port] });
      await expect(clash).rejects.toMatchObject({
        kind: 'precondition',
        message: expect.stringContaining(`${address}:${String(port)}`) as string,
      });
      await expect.poll(console).toMatch(/(boot[^]*){3}/);
      await expect.poll(() => connects(address, port)).toBe(true);
      await machine.removeForward({ protocol: 'udp', hostPort: port });
      await machine.removeForward({ protocol: 'tcp', hostPort: port });
      expect(machine.forwards.map(({ name }) => name)).toEqual(['ssh']);
      expect(await connects(address, port)).toBe(false);
      await expect(machine.removeForward({ protocol: 'tcp', hostPort: port })).rejects.toMatchObject({
        kind: 'not-found',
      });
      await machine.kill();
    });

    test.each(['stream', 'vpnkit'] as const)('connects to a %s peer, again after that restarts', async (framing) => {
      const path = join(bench.folder, `${name}-${framing}`);
      const vpnkit = () => new VpnkitPeer('02:00:00:00:00:01', () => undefined);
      const peers = [
        framing === 'vpnkit' ? vpnkit() : new StreamPeer(),
        framing === 'vpnkit' ? vpnkit() : new StreamPeer(),
      ];
      const onSocket = (spec: VmSpec): VmSpec => {
        const { mac, hostname } = spec.network;
        return { ...spec, network: { mode: 'socket', framing, path, mac, hostname, services: [] } };
      };
      await expect(bench.launch([hang()], { change: onSocket })).rejects.toThrow(path);
      await peers[0]?.listen(path);
      const { machine } = await bench.launch([hang()], { change: onSocket });
      try {
        await expect.poll(() => peers[0]?.clients.length).toBe(1);
        await peers[0]?.close();
        await peers[1]?.listen(path);
        await expect.poll(() => peers[1]?.clients).toEqual(peers[0]?.clients);
      } finally {
        await machine.kill();
        await peers[1]?.close();
      }
    });

    test('binds its end of a datagram network, and takes it away', async () => {
      const path = join(bench.folder, `${name}-datagram`);
      const own = join(bench.folder, 'net.sock');
      // Node cannot make datagram sockets of this kind.
      const script =
        'use Socket; socket S,AF_UNIX,SOCK_DGRAM,0; bind S,pack_sockaddr_un $ARGV[0]; $|=1; print "bound"; sleep 60';
      const peer = spawn('perl', ['-e', script, path]);
      try {
        await once(peer.stdout, 'data');
        const { machine } = await bench.launch([hang()], {
          change: (spec) => {
            const { mac, hostname } = spec.network;
            return { ...spec, network: { mode: 'socket', framing: 'datagram', path, mac, hostname, services: [] } };
          },
        });
        expect(statSync(own).isSocket()).toBe(true);
        await machine.kill();
        await expect.poll(() => existsSync(own)).toBe(false);
      } finally {
        peer.kill();
      }
    });

    test('has its end of a port at a switch as long as it runs, whether a switch is there or not', async () => {
      const socket = join(bench.folder, 'nic');
      const { machine, console } = await bench.launch([print('boot\n'), delay(100_000), reset()], {
        change: (spec) => ({
          ...spec,
          network: {
            mode: 'switch',
            mac: '02:00:00:00:00:01',
            hostname: 'tiny',
            network: 'lab',
            machineSocket: socket,
            switchSocket: join(bench.folder, 'port'),
            hostAddress: '127.64.99.1',
            forwards: [{ name: 'ssh', guestPort: 22, hostPorts: [0] }],
          },
        }),
      });
      await expect.poll(console).toMatch(/(boot[^]*){3}/);
      await expect.poll(() => existsSync(socket)).toBe(true);
      // The switch binds the ports, not the hypervisor.
      expect(machine.forwards).toEqual([]);
      await expect(machine.addForward({ name: 'added', guestPort: 80, hostPorts: [0] })).rejects.toMatchObject({
        kind: 'precondition',
      });
      await machine.kill();
      expect((await machine.exited).reason).toBe('killed');
    });

    test('pauses, resumes, and ends at once when killed', async () => {
      const { machine, console } = await bench.launch([alphabet(2_000)]);
      await expect.poll(console).toContain('abc');
      await machine.pause();
      // What was under way when it was paused still arrives; after that nothing does.
      const isSilent = async () => {
        const before = console();
        await new Promise((wake) => setTimeout(wake, 100));
        return console() === before;
      };
      await expect.poll(isSilent).toBe(true);
      expect(await isSilent()).toBe(true);
      const before = console();
      await machine.resume();
      await expect.poll(() => console().length).toBeGreaterThan(before.length);
      await machine.kill();
      expect((await machine.exited).reason).toBe('killed');
    });

    test('is saved, and goes on in another machine where it was', async () => {
      const first = await bench.launch([alphabet(2_000)]);
      await expect.poll(first.console).toContain('abc');
      await first.machine.pause();
      const snapshot = join(bench.folder, 'snapshot');
      mkdirSync(snapshot);
      await first.machine.save(snapshot);
      await first.machine.kill();
      const second = await bench.launch([], { restoreFrom: snapshot, kernel: first.kernel });
      await expect.poll(() => second.console().length).toBeGreaterThan(3);
      await second.machine.kill();
      expect(second.beforeStart).toEqual(['']);
      const letters = 'abcdefghijklmnopqrstuvwxyz';
      const all = first.console() + second.console();
      expect(letters.repeat(Math.ceil(all.length / 26))).toContain(all);
    });
  });
});

async function freePort(host: string): Promise<number> {
  const server = createServer().listen(0, host);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

function connects(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, host);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => {
      resolve(false);
    });
  });
}

/** A peer of QEMU's stream framing that only counts who comes. */
class StreamPeer {
  readonly clients: string[] = [];
  readonly #sockets: Socket[] = [];
  readonly #server: Server = createServer((socket) => {
    socket.on('error', () => undefined);
    this.#sockets.push(socket);
    this.clients.push('one');
  });

  listen(path: string): Promise<void> {
    return new Promise((resolve) => this.#server.listen(path, resolve));
  }

  close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    return new Promise((resolve) => this.#server.close(() => resolve()));
  }
}
