import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Readable } from 'node:stream';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { run } from '../../driver/base/index.js';
import type { NetworkSpec } from '../../driver/hypervisor/index.js';
import { elf, hang, print } from '../unit/hypervisor/tiny-guest.js';
import { Host, cannotRunNetworks } from './network-host.js';
import { RootlessUser } from './rootless-user.js';

const dist = resolve(import.meta.dirname, '../../dist');
const HOST_ADDRESS = '127.64.42.1';

interface Report {
  readonly state: string;
  readonly rootless: boolean;
  readonly gateway: string;
  readonly ipv4: string;
  readonly interfaces: readonly string[];
}

/** Everything by users without any privilege: real namespaces, dnsmasq, slirp4netns, DHCP clients, taps and a QEMU. */
describe.skipIf(cannotRunNetworks)('a shared network without root', () => {
  const host = new Host();
  const running: ChildProcess[] = [];
  let alice: RootlessUser;
  let bob: RootlessUser;
  let first: string;
  let second: string;
  let addresses: string[];
  let machine: Awaited<ReturnType<typeof launch>>;
  beforeAll(async () => {
    await host.open();
    mkdirSync(join(host.folder, 'networks'), { recursive: true });
    writeFileSync(join(host.folder, 'kernel'), elf(print('up'), hang()));
    await RootlessUser.makeTun(host);
    alice = new RootlessUser(host, 4201);
    bob = new RootlessUser(host, 4202);
  });
  afterAll(async () => {
    for (const child of running) child.kill('SIGKILL');
    for (const user of [alice, bob]) await user.tshyve('network', 'down', '-f', 'a');
    await host.close();
  });

  async function inspect(user: RootlessUser): Promise<Report> {
    return JSON.parse(await user.ok('network', 'inspect', 'a')) as Report;
  }

  function file(user: RootlessUser, name: string): string {
    return readFileSync(join(user.home, '.tshyve/rootless/a', name), 'utf8');
  }

  const pidIn = (text: string, key: string) => Number((JSON.parse(text) as Record<string, unknown>)[key]);
  const holder = (user: RootlessUser) => pidIn(file(user, 'namespace.json'), 'pid');

  /** A guest: a namespace with one interface on the bridge. */
  async function guest(user: RootlessUser, number: number, mac?: string): Promise<string> {
    const name = await host.bareGuest(number);
    const inside = ['--target', String(holder(user)), '--net', '--', 'ip', 'link'];
    const peer = ['peer', 'name', 'eth0', ...(mac === undefined ? [] : ['address', mac]), 'netns', name];
    await host.must('nsenter', ...inside, 'add', `v${String(number)}`, 'type', 'veth', ...peer);
    await host.must('nsenter', ...inside, 'set', `v${String(number)}`, 'master', 'tsh-a', 'up');
    await host.must('ip', '-n', name, 'link', 'set', 'lo', 'up');
    await host.must('ip', '-n', name, 'link', 'set', 'eth0', 'up');
    return name;
  }

  test('up needs nothing but a user, and changes nothing on the host', async () => {
    await alice.ok('network', 'up', '--rootless', 'a');
    const report = await inspect(alice);
    expect(report).toMatchObject({ state: 'up', rootless: true, interfaces: [] });
    await alice.ok('network', 'up', '--rootless', 'a');
    await alice.ok('network', 'up', 'a');
    expect(await inspect(alice)).toEqual(report);
    expect(await alice.ok('network', 'ls')).toMatch(/^a +up +/m);
    expect(await host.inside('ip', '-o', 'link', 'show')).not.toContain('tsh-');
    expect(await host.inside('nft', 'list', 'ruleset')).toBe('');
    expect(await host.inside('cat', '/proc/sys/net/ipv4/ip_forward')).toBe('0');
  });

  test('guests get addresses, reach each other, and are found by name', async () => {
    first = await guest(alice, 1);
    second = await guest(alice, 2);
    addresses = [await host.dhcp(first, 'one'), await host.dhcp(second, 'two')];
    const { gateway } = await inspect(alice);
    expect(await host.pings(first, addresses[1] ?? '')).toBe(true);
    expect(await host.pings(second, gateway)).toBe(true);
    expect(await host.resolve(first, 'two.tshyve.internal', gateway)).toBe(addresses[1]);
  });

  test("guests reach the host's loopback and resolve as the host does", async () => {
    const { gateway } = await inspect(alice);
    const alias = await host.resolve(first, 'host.docker.internal', gateway);
    expect(alias).toBe('10.0.2.2');
    const args = ['--keep-in-foreground', '--conf-file=/dev/null', '--no-resolv', '--no-hosts', '--bind-interfaces'];
    const dns = ['--listen-address=127.0.0.9', '--except-interface=none', '--address=/corp.example/203.0.113.1'];
    const server = `require('net').createServer((s) => s.end('hello')).listen(8080, '127.0.0.1')`;
    const started = [
      spawn('ip', ['netns', 'exec', host.name, 'dnsmasq', ...args, ...dns, '--pid-file='], {
        env: host.env,
        stdio: 'ignore',
      }),
      spawn('ip', ['netns', 'exec', host.name, process.execPath, '-e', server], { stdio: 'ignore' }),
    ];
    try {
      await expect.poll(() => host.resolve(first, 'x.corp.example', gateway)).toBe('203.0.113.1');
      const fetch = `require('net').connect(8080, '${alias}').on('data', (d) => console.log(String(d))).on('error', () => 0)`;
      const hear = () => host.must('ip', 'netns', 'exec', first, process.execPath, '-e', fetch);
      await expect.poll(hear).toBe('hello');
    } finally {
      for (const child of started) child.kill('SIGKILL');
    }
  });

  /** Starts a supervisor by its own protocol. @returns its answer */
  async function launch(user: RootlessUser, mac: string) {
    const machineDirectory = join(user.home, 'machine');
    mkdirSync(machineDirectory, { recursive: true, mode: 0o700 });
    chownSync(machineDirectory, user.uid, user.uid);
    const network: NetworkSpec = {
      mode: 'namespace',
      mac,
      hostname: 'three',
      network: 'a',
      interface: `tsht${mac.replaceAll(':', '').slice(-10)}`,
      hostAddress: HOST_ADDRESS,
      forwards: [
        { name: 'ssh', guestPort: 22, hostPorts: [2222] },
        { name: 'added', guestPort: 53, hostPorts: [5353], protocol: 'udp' },
      ],
    };
    const spec = {
      name: 'three',
      uuid: '00000000-0000-8000-8000-000000000003',
      cpus: 1,
      memoryMiB: 64,
      boot: { kernel: join(host.folder, 'kernel'), initrd: '', commandLine: '' },
      disks: [],
      network,
    };
    const request = { machineDirectory, id: '0000000000000003', hypervisor: 'qemu', spec };
    const child = spawn('ip', user.words('open', process.execPath, join(dist, 'tshyve-vmm.cjs'), '--launch'), {
      env: user.env,
      stdio: ['pipe', 'ignore', 'ignore', 'pipe'],
    });
    running.push(child);
    child.stdin?.end(JSON.stringify(request));
    let text = '';
    for await (const chunk of (child.stdio[3] as Readable).setEncoding('utf8')) text += chunk as string;
    expect(
      text.trim(),
      existsSync(join(machineDirectory, 'vmm.log')) ? readFileSync(join(machineDirectory, 'vmm.log'), 'utf8') : '',
    ).toBe('{"ready":true}');
    return {
      child,
      tap: network.interface,
      status: join(user.env['TSHYVE_RUN_DIR'] ?? '', request.id, 'status.json'),
    };
  }

  test('a machine of the user is reached from the host, by TCP and UDP', async () => {
    const mac = '02:00:00:00:42:03';
    machine = await launch(alice, mac);
    expect((await inspect(alice)).interfaces).toContain(machine.tap);
    // What the QEMU guest would do: this one has its MAC address, on the same bridge.
    const third = await guest(alice, 3, mac);
    await host.dhcp(third, 'three');
    const echo = `
      require('net').createServer({ allowHalfOpen: true }, (s) => s.on('error', () => 0).pipe(s)).listen(22);
      const u = require('dgram').createSocket('udp4').on('message', (m, r) => u.send(m, r.port, r.address)).bind(53);`;
    running.push(spawn('ip', ['netns', 'exec', third, process.execPath, '-e', echo], { stdio: 'ignore' }));
    const ask = (script: string) => host.inside(process.execPath, '-e', script);
    const tcp = `
      let n = 0;
      require('net').connect({ port: 2222, host: '${HOST_ADDRESS}', allowHalfOpen: true }).on('error', () => 0)
        .on('data', (d) => (n += d.length)).on('close', () => console.log(n)).end(Buffer.alloc(3e6));`;
    await expect.poll(() => ask(tcp)).toBe('3000000');
    const udp = `
      const u = require('dgram').createSocket('udp4').on('message', (m) => (console.log(String(m)), u.close()));
      u.send('ping', 5353, '${HOST_ADDRESS}'); setTimeout(() => process.exit(), 3000).unref();`;
    expect(await ask(udp)).toBe('ping');
    const events = (JSON.parse(readFileSync(machine.status, 'utf8')) as { events: { name: string }[] }).events;
    expect(events.map(({ name }) => name)).toContain('lease');
  });

  test("another user's network of the same name is another network", async () => {
    await bob.ok('network', 'up', '--rootless', 'a');
    const stranger = await guest(bob, 4);
    await host.dhcp(stranger, 'stranger');
    expect(await host.pings(stranger, addresses[0] ?? '')).toBe(false);
    expect((await inspect(bob)).interfaces).toEqual(['v4']);
    await bob.ok('network', 'down', '--force', 'a');
    expect(bob.processes('')).toEqual([]);
  });

  test('whatever dies comes back', async () => {
    for (const word of ['slirp4netns', 'dnsmasq.conf']) {
      const before = alice.processes(word);
      expect(before.length, word).toBeGreaterThan(0);
      for (const pid of before) process.kill(pid, 'SIGKILL');
      await expect.poll(() => alice.processes(word).filter((pid) => !before.includes(pid)).length).toBeGreaterThan(0);
    }
    const keeper = pidIn(file(alice, 'status.json'), 'keeperPid');
    process.kill(keeper, 'SIGKILL');
    await expect.poll(async () => (await inspect(alice)).state).toBe('stale');
    await expect.poll(() => [...alice.processes('slirp4netns'), ...alice.processes('dnsmasq.conf')]).toEqual([]);
    const before = (await inspect(alice)).interfaces;
    await alice.ok('network', 'up', 'a');
    const after = await inspect(alice);
    expect(after).toMatchObject({ state: 'up', interfaces: before });
    await host.must('ip', '-n', first, 'addr', 'flush', 'dev', 'eth0');
    expect(await host.dhcp(first, 'one')).toBe(addresses[0]);
    expect(await host.resolve(first, 'host.docker.internal', after.gateway)).toBe('10.0.2.2');
    expect(await host.pings(first, '10.0.2.2')).toBe(true);
  });

  test('what the host forbids is named, with the command that allows it', async () => {
    const program = [process.execPath, join(dist, 'tshyve.cjs'), 'network', 'up', '--rootless', 'b'];
    const options = { env: bob.env, timeoutMs: 60_000 };
    const noTun = await run('ip', bob.words('closed', ...program), options);
    expect(noTun.code).toBe(7);
    expect(noTun.stderr).toContain('sudo chmod 666 /dev/net/tun');
    const limit = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"';
    const noSpace = await run('ip', bob.words('open', 'unshare', '-Ur', 'sh', '-c', limit, 'sh', ...program), options);
    expect(noSpace.code).toBe(7);
    expect(noSpace.stderr).toContain('sudo sysctl -w user.max_user_namespaces=10000');
    // Nothing is left that would make "b" theirs.
    expect(readdirSync(join(bob.home, '.tshyve/rootless'))).toEqual([]);
    const shared = await bob.tshyve('network', 'up', '--rootless', '--user', 'root', 'b');
    expect(shared.code).toBe(2);
    expect(shared.stderr).toContain('Leave out --user');
  });

  test('down refuses while machines are attached, and then leaves nothing', async () => {
    const refused = await alice.tshyve('network', 'down', 'a');
    expect(refused.stderr).toContain('attached');
    // A supervisor that is killed takes its helper on the host along; its QEMU is ended by hand.
    const { supervisorPid, vmPid } = JSON.parse(readFileSync(machine.status, 'utf8')) as Record<string, number>;
    const closed = once(machine.child, 'close');
    for (const pid of [supervisorPid, vmPid]) process.kill(Math.max(pid ?? 0, 2), 'SIGKILL');
    await closed;
    await alice.ok('network', 'down', '--force', 'a');
    expect(readdirSync(join(alice.home, '.tshyve/rootless'))).toEqual([]);
    for (const word of ['slirp4netns', 'dnsmasq', 'sleep', 'network', 'vmm'])
      expect(alice.processes(word), word).toEqual([]);
    expect((await alice.tshyve('network', 'inspect', 'a')).code).toBe(3);
  });
});
