import { readFileSync, readdirSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { noLog } from '../../driver/base/index.js';
import { MachineStore } from '../../driver/machine/index.js';
import { World, cannotRun } from './world.js';

/** A container of busybox alone, made of the guest's own; there is no registry to get one from. */
const makeImage =
  'mkdir -p box/bin box/www && cp /bin/busybox box/bin/ && echo from a container > box/www/index.html && for f in $(ldd /bin/busybox | grep -o "/lib[^ ]*"); do mkdir -p box$(dirname $f) && cp -L $f box$f; done && tar -C box -c . | docker import - box:1';

describe.skipIf(cannotRun)('machines on a user-mode network of their own', () => {
  const world = new World();
  const ssh = (name: string, command: string) => world.tshyveOk('ssh', name, command);
  const addresses: Record<string, string> = {};
  const ports = async (name: string) => {
    const list = JSON.parse(await world.tshyveOk('port', 'ls', '--json', name)) as { name: string; hostPort: number }[];
    return list
      .filter(({ name: kind }) => kind !== 'ssh' && kind !== 'docker')
      .map((port) => [port.name, port.hostPort]);
  };
  /** What an HTTP server of a machine says to the host; the reason when it says nothing. */
  const fetchFrom = async (name: string, port: number): Promise<string> => {
    try {
      const response = await fetch(`http://${addresses[name] ?? ''}:${String(port)}/`, {
        signal: AbortSignal.timeout(3_000),
      });
      return (await response.text()).trim();
    } catch (error) {
      return String(error);
    }
  };
  const switchPid = () => world.processes().filter((process) => process.includes('tshyve-switch lab'));

  beforeAll(async () => {
    Object.assign(process.env, { TSHYVE_HOME: world.env['TSHYVE_HOME'], TSHYVE_RUN_DIR: world.env['TSHYVE_RUN_DIR'] });
    const settings = ['--memory', '512', '--cpus', '1', '--network', 'user:lab'];
    // The second does without Docker: its driver is asked directly, as libmachine does before it provisions.
    const store = new MachineStore(world.store);
    const two = await store.prepare('two');
    two.setConfigFromFlags(
      new Map<string, number | string>([
        ['tshyve-memory', 512],
        ['tshyve-cpus', 1],
        ['tshyve-network', 'user:lab'],
      ]),
    );
    await store.claim('two');
    await store.save(two);
    await Promise.all([
      world.tshyveOk('create', 'one', ...settings),
      two.create({ log: noLog, signal: new AbortController().signal }).then(() => store.save(two)),
    ]);
    for (const name of ['one', 'two']) {
      addresses[name] = await world.tshyveOk('ip', name);
      await ssh(name, `mkdir -p www && echo from ${name} > www/index.html && busybox httpd -p 8000 -h www`);
    }
  });
  afterAll(() => world.close());

  test('one process serves both; each has an address of its own on either side, told by DHCP', async () => {
    expect(switchPid()).toHaveLength(1);
    expect(addresses['one']).not.toBe(addresses['two']);
    const seen = await Promise.all(['one', 'two'].map((name) => ssh(name, 'hostname -I')));
    expect(seen.map((text) => text.split(' ')[0]).sort()).toEqual(['10.0.2.15', '10.0.2.16']);
    for (const [index, name] of ['one', 'two'].entries()) {
      const log = readFileSync(join(world.machineFolder(name), 'vmm.log'), 'utf8');
      expect(log).toContain(`event lease ${seen[index]?.split(' ')[0] ?? ''} `);
    }
  });

  test('they reach each other and the host, by name', async () => {
    expect(await ssh('one', 'curl -s -m 10 http://two:8000/')).toBe('from two');
    expect(await ssh('two', 'curl -s -m 10 http://one.tshyve.internal:8000/')).toBe('from one');
    expect(await ssh('two', 'head -c 8000000 /dev/zero > www/big; curl -s -m 60 http://one:8000/ && sync')).toBe(
      'from one',
    );
    expect(await ssh('one', 'curl -s -m 60 http://two:8000/big | wc -c')).toBe('8000000');
    const server = createServer((_, response) => response.end('from the host')).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    try {
      expect(await ssh('one', `curl -s -m 10 http://host.docker.internal:${String(port)}/`)).toBe('from the host');
    } finally {
      server.close();
    }
  });

  test('ports are added and removed while they run', async () => {
    expect(await fetchFrom('two', 8080)).toContain('fetch failed');
    await world.tshyveOk('port', 'add', 'two', '8080:8000', '5353:53/udp');
    expect(await fetchFrom('two', 8080)).toBe('from two');
    expect(await ports('two')).toEqual([
      ['added', 8080],
      ['added', 5353],
    ]);
    // The same port of another machine is another one.
    await world.tshyveOk('port', 'add', 'one', '8080:8000');
    expect(await fetchFrom('one', 8080)).toBe('from one');
    const clash = await world.tshyve(['port', 'add', 'two', '2376:80']);
    expect(clash).toMatchObject({ code: 7, err: expect.stringContaining(':2376') as string });
    await world.tshyveOk('port', 'rm', 'two', '5353/udp');
    expect(await ports('two')).toEqual([['added', 8080]]);
  });

  test('what containers and NodePorts publish is forwarded, as long as they do', async () => {
    await ssh('one', makeImage);
    await ssh(
      'one',
      'docker run -d --name web -p 8081:80 -p 127.0.0.1:8082:80 box:1 /bin/busybox httpd -f -p 80 -h /www',
    );
    await expect.poll(() => fetchFrom('one', 8081), { timeout: 30_000 }).toBe('from a container');
    // As kube-proxy does; nobody listens there.
    await ssh(
      'one',
      'sudo iptables -w -t nat -N KUBE-NODEPORTS && sudo iptables -w -t nat -A PREROUTING -j KUBE-NODEPORTS && sudo iptables -w -t nat -A KUBE-NODEPORTS -p tcp -m comment --comment "default/web:http" -m tcp --dport 30080 -j REDIRECT --to-ports 8000',
    );
    await expect.poll(() => fetchFrom('one', 30080), { timeout: 30_000 }).toBe('from one');
    expect(await ports('one')).toEqual([
      ['added', 8080],
      ['published', 8081],
      ['published', 30080],
    ]);
    await ssh('one', 'docker rm -f web && sudo iptables -w -t nat -F KUBE-NODEPORTS');
    await expect.poll(() => ports('one'), { timeout: 30_000 }).toEqual([['added', 8080]]);
    expect(await fetchFrom('one', 8081)).toContain('fetch failed');
  });

  test('a switch that is killed comes back under running machines', async () => {
    const [before = ''] = switchPid();
    process.kill(Number.parseInt(before, 10), 'SIGKILL');
    await expect.poll(switchPid).toHaveLength(1);
    expect(switchPid()).not.toEqual([before]);
    await expect.poll(() => fetchFrom('two', 8080), { timeout: 20_000 }).toBe('from two');
    expect(await ssh('one', 'curl -s -m 10 http://two:8000/')).toBe('from two');
  });

  test('addresses and ports are the same after a stop and a start; the switch ends after the last machine', async () => {
    await world.tshyveOk('stop', 'two');
    expect(await ports('two')).toEqual([['added', 8080]]);
    await world.tshyveOk('start', 'two');
    expect(await world.tshyveOk('ip', 'two')).toBe(addresses['two']);
    await ssh('two', 'busybox httpd -p 8000 -h www');
    expect(await fetchFrom('two', 8080)).toBe('from two');
    expect(await ssh('one', 'curl -s -m 10 http://two:8000/')).toBe('from two');
    await world.tshyveOk('kill', 'one', 'two');
    await expect.poll(() => world.processes()).toEqual([]);
    expect(readdirSync(join(world.runFolder, 'net-lab')).filter((name) => !name.startsWith('switch.l'))).toEqual([]);
  });
});
