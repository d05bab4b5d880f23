import { mkdirSync, readFileSync, readdirSync, symlinkSync } from 'node:fs';
import { join, resolve } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { Host, cannotRunNetworks } from './network-host.js';
import { RootlessUser } from './rootless-user.js';
import { cannotRun, clientPath, image } from './world.js';

const publishNodePort =
  'sudo iptables -w -t nat -N KUBE-NODEPORTS && sudo iptables -w -t nat -A PREROUTING -j KUBE-NODEPORTS && sudo iptables -w -t nat -A KUBE-NODEPORTS -p tcp -m comment --comment "default/web:http" -m tcp --dport 30080 -j REDIRECT --to-ports 8000';
const dist = resolve(import.meta.dirname, '../../dist');

/** The unmodified docker-machine of a user without privileges, on a network that the user made. */
describe.skipIf(cannotRun || cannotRunNetworks)('docker-machine of a user, on a shared network without root', () => {
  const host = new Host();
  let user: RootlessUser;
  let store: string;
  let addresses: string[];
  beforeAll(async () => {
    await host.open();
    mkdirSync(join(host.folder, 'networks'), { recursive: true });
    await RootlessUser.makeTun(host);
    user = new RootlessUser(host, 4203);
    store = join(user.home, 'store');
    const bin = join(host.folder, 'bin');
    mkdirSync(bin);
    symlinkSync(join(dist, 'docker-machine-driver-tshyve.cjs'), join(bin, 'docker-machine-driver-tshyve'));
    Object.assign(user.env, {
      PATH: `${bin}:${host.env['PATH'] ?? ''}`,
      MACHINE_BUGSNAG_API_TOKEN: 'no-report',
      SHELL: '/bin/bash',
      TSHYVE_IMAGE_URL: `file://${image}`,
    });
    await user.ok('network', 'up', '--rootless', 'a');
  });
  afterAll(async () => {
    await machine('rm', '-f', '-y', 'one', 'two');
    await user.tshyve('network', 'down', '-f', 'a');
    await host.close();
  });

  async function machine(...args: string[]) {
    const { code, stdout, stderr } = await user.run(300_000, clientPath('docker-machine'), '-s', store, ...args);
    return { code, out: stdout.trim(), err: stderr.trim() };
  }
  async function ok(...args: string[]): Promise<string> {
    const result = await machine(...args);
    expect(result.code, `docker-machine ${args.join(' ')}: ${result.out}\n${result.err}`).toBe(0);
    return result.out;
  }
  /** What an HTTP server at an address of the host says; the reason when it says nothing. */
  async function fetchFrom(address: string, port: number): Promise<string> {
    const url = `http://${address}:${String(port)}/`;
    const script = `fetch('${url}', { signal: AbortSignal.timeout(3000) }).then((r) => r.text()).then((t) => console.log(t.trim()), (e) => console.log(String(e)))`;
    const { stdout } = await user.run(30_000, process.execPath, '-e', script);
    return stdout.trim();
  }

  test('two machines get leases of one network, and Docker answers at an address of the host', async () => {
    const flags = ['--tshyve-memory', '512', '--tshyve-cpus', '1', '--tshyve-network', 'shared:a'];
    await ok('create', '-d', 'tshyve', ...flags, 'one');
    await ok('create', '-d', 'tshyve', ...flags, '--tshyve-manual-ports', 'two');
    addresses = [await ok('ip', 'one'), await ok('ip', 'two')];
    expect(new Set(addresses).size).toBe(2);
    const { ipv4 } = JSON.parse(await user.ok('network', 'inspect', 'a')) as { ipv4: string };
    for (const [index, name] of ['one', 'two'].entries()) {
      const seen = await ok('ssh', name, "ip -4 -o addr show eth0 | awk '{ print $4 }'");
      expect(seen.split('.').slice(0, 3)).toEqual(ipv4.split('.').slice(0, 3));
      expect(addresses[index]).toMatch(/^127\./);
      const log = readFileSync(join(store, 'machines', name, 'vmm.log'), 'utf8');
      expect(log).toContain(`event lease ${seen.split('/')[0] ?? ''} `);
    }
    expect(await ok('ls')).toMatch(/one .* Running +tcp:\/\/127\..*:2376 .* v20\.10/);
    // Not one process of them belongs to root.
    expect(user.processes('qemu-system')).toHaveLength(2);
    expect(user.processes('tshyve-vmm').length).toBeGreaterThanOrEqual(2);
  });

  test('they reach each other by name, and the host', async () => {
    await ok('ssh', 'one', 'ping -c 1 -W 5 two.tshyve.internal');
    expect(await ok('ssh', 'two', `timeout 10 bash -c 'head -c 7 < /dev/tcp/one/22'`)).toBe('SSH-2.0');
    expect(await ok('ssh', 'two', 'getent ahostsv4 host.docker.internal')).toContain('10.0.2.2');
  });

  test('ports are added, and published by themselves, at the addresses of the host', async () => {
    for (const name of ['one', 'two'])
      await ok('ssh', name, `mkdir -p www && echo from ${name} > www/index.html && busybox httpd -p 8000 -h www`);
    for (const name of ['one', 'two']) await user.ok('-s', store, 'port', 'add', name, '8080:8000');
    expect(await fetchFrom(addresses[0] ?? '', 8080)).toBe('from one');
    expect(await fetchFrom(addresses[1] ?? '', 8080)).toBe('from two');
    // As kube-proxy publishes a NodePort; nobody listens there. The second machine was told not to follow.
    const published = (name: string) => fetchFrom(addresses[name === 'one' ? 0 : 1] ?? '', 30080);
    for (const name of ['two', 'one']) await ok('ssh', name, publishNodePort);
    await expect.poll(() => published('one'), { timeout: 30_000 }).toBe('from one');
    expect(await published('two')).toContain('fetch failed');
    await user.ok('-s', store, 'port', 'add', 'two', '30080');
    expect(await published('two')).toBe('from two');
    await ok('ssh', 'one', 'sudo iptables -w -t nat -F KUBE-NODEPORTS');
    await expect.poll(() => published('one'), { timeout: 30_000 }).toContain('fetch failed');
  });

  test('addresses stay over stop and start, and over suspend', async () => {
    await ok('stop', 'one');
    await ok('start', 'one');
    expect(await ok('ip', 'one')).toBe(addresses[0]);
    await user.ok('-s', store, 'suspend', 'two');
    expect(await ok('status', 'two')).toBe('Saved');
    await ok('start', 'two');
    expect(await ok('ip', 'two')).toBe(addresses[1]);
    await ok('ssh', 'two', 'ping -c 1 -W 5 one');
    expect(await fetchFrom(addresses[1] ?? '', 8080)).toBe('from two');
  });

  test('rm and down leave nothing', async () => {
    await ok('rm', '-y', 'one', 'two');
    await user.ok('network', 'down', 'a');
    await expect.poll(() => user.processes('')).toEqual([]);
    expect(readdirSync(join(user.home, '.tshyve/rootless'))).toEqual([]);
  });
});
