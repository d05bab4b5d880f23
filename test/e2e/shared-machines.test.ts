import { existsSync, mkdirSync, readFileSync, readdirSync, symlinkSync } from 'node:fs';
import { join, resolve } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { run } from '../../driver/base/index.js';
import { Host, cannotRunNetworks } from './network-host.js';
import { cannotRun } from './world.js';

const root = resolve(import.meta.dirname, '../..');
const client = join(root, 'test/conformance/bin/docker-machine');

describe.skipIf(cannotRun || cannotRunNetworks)('machines on a shared network, made by docker-machine', () => {
  const host = new Host();
  const store = join(host.folder, 'store');
  const runFolder = join(host.folder, 'run');

  beforeAll(async () => {
    const bin = join(host.folder, 'bin');
    mkdirSync(bin);
    symlinkSync(join(root, 'dist/docker-machine-driver-tshyve.cjs'), join(bin, 'docker-machine-driver-tshyve'));
    Object.assign(host.env, {
      PATH: `${bin}:${host.env['PATH'] ?? ''}`,
      TSHYVE_RUN_DIR: runFolder,
      MACHINE_BUGSNAG_API_TOKEN: 'no-report',
      SHELL: '/bin/bash',
    });
    await host.open();
  });
  afterAll(async () => {
    const machines = join(store, 'machines');
    if (existsSync(machines)) await machine('rm', '-f', '-y', ...readdirSync(machines));
    await host.close();
  });

  /** Runs the client in the namespace that stands for the host. */
  async function machine(...args: string[]) {
    const command = ['netns', 'exec', host.name, client, '-s', store, ...args];
    const { code, stdout, stderr } = await run('ip', command, { env: host.env, timeoutMs: 300_000 });
    return { code, out: stdout.trim(), err: stderr.trim() };
  }
  async function ok(...args: string[]): Promise<string> {
    const result = await machine(...args);
    expect(result.code, `docker-machine ${args.join(' ')}: ${result.out}\n${result.err}`).toBe(0);
    return result.out;
  }
  const create = (name: string) => {
    const flags = ['--tshyve-memory', '512', '--tshyve-cpus', '1', '--tshyve-network', 'shared:a'];
    return machine('create', '-d', 'tshyve', ...flags, name);
  };
  const links = async () => (await host.inside('ip', '-o', 'link', 'show')).match(/tsht[0-9a-f]+/g) ?? [];
  let addresses: string[];

  test('a network that is not up is named before anything is made', async () => {
    const result = await create('one');
    expect(result.code).toBe(3);
    expect(result.err).toMatch(/The network .*a.* is not up: run .*sudo tshyve network up a/);
    expect(existsSync(join(store, 'machines/one'))).toBe(false);
  });

  test('two machines get leases, and the client and the guest agree on the address', async () => {
    await host.ok('network', 'up', 'a');
    for (const name of ['one', 'two']) {
      const created = await create(name);
      expect(created.code, created.out + created.err).toBe(0);
    }
    addresses = [await ok('ip', 'one'), await ok('ip', 'two')];
    const { ipv4 } = await host.inspect('a');
    for (const [index, name] of ['one', 'two'].entries()) {
      expect(await ok('ssh', name, "ip -4 -o addr show eth0 | awk '{ print $4 }'")).toBe(
        `${addresses[index] ?? ''}/24`,
      );
      expect(addresses[index]?.split('.').slice(0, 3)).toEqual(ipv4.split('.').slice(0, 3));
      expect(await ok('url', name)).toBe(`tcp://${addresses[index] ?? ''}:2376`);
    }
    expect(await ok('ls')).toMatch(/one .* Running .* v20\.10/);
  });

  test('they reach each other and the host, by name', async () => {
    await ok('ssh', 'one', 'ping -c 1 -W 5 two.tshyve.internal');
    await ok('ssh', 'two', 'ping -c 1 -W 5 one');
    const { gateway } = await host.inspect('a');
    for (const name of ['host.docker.internal', 'host.minikube.internal']) {
      expect(await ok('ssh', 'one', `getent ahostsv4 ${name}`)).toContain(gateway);
    }
    // TCP between guests: the other one's sshd.
    expect(await ok('ssh', 'one', `timeout 10 bash -c 'head -c 7 < /dev/tcp/two/22'`)).toBe('SSH-2.0');
  });

  test('an address stays over stop and start, and over a killed supervisor', async () => {
    await ok('stop', 'one');
    expect(await links()).toHaveLength(1);
    expect((await machine('ip', 'one')).err).toContain('Host is not running');
    await ok('start', 'one');
    expect(await ok('ip', 'one')).toBe(addresses[0]);
    const pids = readdirSync(runFolder)
      .filter((name) => /^[0-9a-f]{16}$/.test(name))
      .map((name) => JSON.parse(readFileSync(join(runFolder, name, 'status.json'), 'utf8')) as Record<string, unknown>)
      .filter((status) => status['hostAddress'] === addresses[0])
      .map((status) => Number(status['supervisorPid']));
    expect(pids).toHaveLength(1);
    process.kill(Math.max(2, pids[0] ?? 2), 'SIGKILL');
    await expect.poll(() => ok('status', 'one')).toBe('Stopped');
    await ok('start', 'one');
    expect(await ok('ip', 'one')).toBe(addresses[0]);
  });

  test('a suspended machine comes back at its address', async () => {
    await host.ok('-s', store, 'suspend', 'two');
    expect(await ok('status', 'two')).toBe('Saved');
    await ok('start', 'two');
    expect(await ok('ip', 'two')).toBe(addresses[1]);
    await ok('ssh', 'two', 'ping -c 1 -W 5 one');
  });

  test('a removed bridge comes back with the machines on it', async () => {
    const before = await links();
    await host.inside('ip', 'link', 'delete', 'tsh-a');
    await expect
      .poll(async () => (await machine('ssh', 'one', 'true')).code, { timeout: 60_000, interval: 2000 })
      .toBe(0);
    expect((await links()).sort()).toEqual(before.sort());
    await ok('ssh', 'one', 'ping -c 1 -W 5 two');
  });

  test('rm takes the interfaces along', async () => {
    await ok('rm', '-y', 'one', 'two');
    await expect.poll(links).toEqual([]);
    expect(readdirSync(join(host.folder, 'networks/a/hosts'))).toEqual([]);
  });
});
