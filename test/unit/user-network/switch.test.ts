import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { once } from 'node:events';

import { afterAll, afterEach, describe, expect, test } from 'vitest';

import type { PortForwardSpec } from '../../../driver/hypervisor/index.js';
import { Membership, listUserNetworks, portSockets } from '../../../driver/user-network/index.js';

const root = resolve(import.meta.dirname, '../../..');
const missing = ['dist/tshyve-switch.cjs', 'prebuilds/linux-x64/tshyve.glibc.node'].filter(
  (path) => !existsSync(join(root, path)),
);
if (missing.length > 0) console.warn(`The tests of user-mode networks need ${missing.join(', ')}: run scripts/test.sh`);

/** Real processes, real ports; the machines have nothing behind theirs. */
describe.skipIf(missing.length > 0 && process.env['CI'] !== 'true')('a user-mode network of several machines', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tsu-'));
  process.env['TSHYVE_RUN_DIR'] = join(folder, 'run');
  process.env['TSHYVE_HOME'] = join(folder, 'home');
  const members = new Set<Membership>();
  const said: string[] = [];
  const problems: string[] = [];
  afterEach(async () => {
    await Promise.all([...members].map((member) => member.leave()));
    members.clear();
    said.length = 0;
    problems.length = 0;
  });
  afterAll(() => {
    rmSync(folder, { recursive: true });
  });

  const hostAddress = (number: number) => `127.64.98.${String(number)}`;
  const join_ = async (number: number, forwards: PortForwardSpec[] = [], network = 'lab') => {
    const mac = `02:00:00:00:00:0${String(number)}`;
    const nic = { mac, hostname: `m${String(number)}`, network, ...portSockets(network, mac) };
    const log = (line: string) => said.push(line);
    const spec = { mode: 'switch' as const, ...nic, hostAddress: hostAddress(number), forwards };
    const member = await Membership.join(spec, { info: log, debug: log });
    member.watch(
      () => undefined,
      (problem) => problems.push(problem),
    );
    members.add(member);
    return member;
  };
  /** Process ids of the switch of a network in this world. */
  const processes = (network: string): number[] =>
    readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .filter((pid) => {
        try {
          const ours = readFileSync(`/proc/${pid}/environ`, 'latin1').includes(`TSHYVE_RUN_DIR=${join(folder, 'run')}`);
          return ours && readFileSync(`/proc/${pid}/cmdline`, 'latin1').startsWith(`tshyve-switch ${network}`);
        } catch {
          return false;
        }
      })
      .map(Number);
  /** What a member says when it has all back that it had. */
  const back = 'is on the network';
  const ssh: PortForwardSpec = { name: 'ssh', guestPort: 22, hostPorts: [2222, 0] };

  test('machines that come at once share one process; each has the same port at an address of its own', async () => {
    const all = await Promise.all([1, 2, 3, 4].map((number) => join_(number, [ssh])));
    expect(processes('lab')).toHaveLength(1);
    for (const [index, member] of all.entries()) {
      const [forward] = member.ports.forwards;
      expect(forward).toMatchObject({ name: 'ssh', hostAddress: hostAddress(index + 1), hostPort: 2222 });
      expect(await connects(hostAddress(index + 1), 2222)).toBe(true);
    }
    await all[0]?.leave();
    await expect.poll(() => connects(hostAddress(1), 2222)).toBe(false);
    expect(await connects(hostAddress(2), 2222)).toBe(true);
    expect(existsSync(portSockets('lab', '02:00:00:00:00:01').switchSocket)).toBe(false);
    expect(existsSync(portSockets('lab', '02:00:00:00:00:02').switchSocket)).toBe(true);
  });

  test('a switch that is killed comes back, with all machines and forwards', async () => {
    const [one, two] = await Promise.all([join_(1, [ssh]), join_(2, [ssh])]);
    const added = await one.ports.add({ name: 'added', guestPort: 80, hostPorts: [8080] });
    expect(added).toMatchObject({ hostPort: 8080, protocol: 'tcp' });
    const before = processes('lab');
    process.kill(before[0] ?? 0, 'SIGKILL');
    await expect.poll(() => said.filter((line) => line.includes(back)).length).toBe(2);
    expect(processes('lab')).toHaveLength(1);
    expect(processes('lab')).not.toEqual(before);
    for (const port of [2222, 8080]) expect(await connects(hostAddress(1), port)).toBe(true);
    expect(await connects(hostAddress(2), 2222)).toBe(true);
    expect(two.ports.forwards).toHaveLength(1);
    await one.ports.remove({ protocol: 'tcp', hostPort: 8080 });
    expect(await connects(hostAddress(1), 8080)).toBe(false);
  });

  test('a port that is taken meanwhile comes back when it is free', async () => {
    await join_(5, [{ name: 'ssh', guestPort: 22, hostPorts: [2225] }]);
    const thief = createServer();
    process.kill(processes('lab')[0] ?? 0, 'SIGKILL');
    await expect
      .poll(
        async () => {
          thief.listen(2225, hostAddress(5)).on('error', () => undefined);
          await new Promise((wake) => setTimeout(wake, 1));
          return thief.listening;
        },
        { interval: 1, timeout: 5_000 },
      )
      .toBe(true);
    await expect.poll(() => said.join('\n')).toMatch(/2225.*in use/);
    expect(problems.at(-1)).toMatch(/^The network "lab": .*2225.*in use/);
    thief.close();
    await expect.poll(() => said.at(-1)).toContain(back);
    expect(problems.at(-1)).toBe('');
  });

  test('sockets that a cleaner of /tmp deletes are made again', async () => {
    await join_(1, [ssh]);
    for (const name of readdirSync(join(folder, 'run/net-lab'))) {
      if (!name.endsWith('.lock')) rmSync(join(folder, 'run/net-lab', name));
    }
    await expect.poll(() => said.at(-1)).toContain(back);
    expect(await connects(hostAddress(1), 2222)).toBe(true);
  });

  test('another network has another process, and may have the same machine names', async () => {
    await Promise.all([join_(1, [ssh]), join_(2, [ssh], 'other')]);
    expect(processes('lab')).toHaveLength(1);
    expect(processes('other')).toHaveLength(1);
    expect(await listUserNetworks()).toMatchObject([
      { name: 'user:lab', state: 'up', interfaces: ['02:00:00:00:00:01'] },
      { name: 'user:other', state: 'up', interfaces: ['02:00:00:00:00:02'] },
    ]);
  });

  test('a port that cannot be had, and a network that cannot be, are named; nothing stays', async () => {
    const taken = createServer().listen(0, hostAddress(6));
    await once(taken, 'listening');
    const { port } = taken.address() as AddressInfo;
    await expect(join_(6, [{ name: 'ssh', guestPort: 22, hostPorts: [port] }])).rejects.toMatchObject({
      kind: 'precondition',
      message: expect.stringContaining(`${hostAddress(6)}:${String(port)}`) as string,
    });
    taken.close();
    process.env['TSHYVE_ADDON'] = join(folder, 'no.node');
    await expect(join_(1, [], 'third')).rejects.toMatchObject({
      kind: 'precondition',
      message: expect.stringContaining('TSHYVE_ADDON') as string,
    });
    delete process.env['TSHYVE_ADDON'];
    await expect.poll(() => processes('third')).toEqual([]);
    // What a killed process leaves does not keep the next one from starting.
    writeFileSync(join(folder, 'run/net-third/switch.sock'), '');
    await join_(1, [], 'third');
    expect(processes('third')).toHaveLength(1);
    process.kill(processes('third')[0] ?? 0, 'SIGTERM');
    await expect.poll(() => processes('third')).toEqual([]);
  });

  test('it ends some seconds after the last machine, and leaves no socket', async () => {
    await expect.poll(() => [...processes('lab'), ...processes('other')]).toEqual([]);
    expect(await listUserNetworks()).toEqual([]);
    expect(readdirSync(join(folder, 'run/net-lab')).sort()).toEqual(['switch.lock', 'switch.log']);
    // It is a warning that said once how the lock was lost.
    expect(readFileSync(join(folder, 'run/net-lab/switch.log'), 'utf8')).not.toMatch(/warning/i);
  });
});

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
