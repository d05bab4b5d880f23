import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { run } from '../../driver/base/index.js';

const root = resolve(import.meta.dirname, '../..');
const program = join(root, 'dist/tshyve.cjs');
const inCI = process.env['CI'] === 'true';
const cannotRun = !inCI && (process.getuid?.() !== 0 || !existsSync(program) || !existsSync('/usr/sbin/dnsmasq'));
if (cannotRun)
  console.warn('The shared-network tests need root, dnsmasq and a built dist: run scripts/test.sh as root');

/** A network namespace that stands for the host, and others, wired to its bridges, that stand for machines. */
class Host {
  readonly folder = mkdtempSync(join(tmpdir(), 'tsn-'));
  readonly name = `tsn${String(process.pid)}`;
  readonly env: NodeJS.ProcessEnv = {
    ...process.env,
    TSHYVE_NETWORKS: join(this.folder, 'networks'),
    TSHYVE_HOME: join(this.folder, 'home'),
    PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`,
  };
  readonly #guests: string[] = [];

  async open(): Promise<void> {
    await this.must('ip', 'netns', 'add', this.name);
    await this.inside('ip', 'link', 'set', 'lo', 'up');
    // ip-netns(8) lays this over /etc inside the namespace.
    mkdirSync(join('/etc/netns', this.name), { recursive: true });
    this.setResolver('127.0.0.9');
  }

  setResolver(address: string): void {
    writeFileSync(join('/etc/netns', this.name, 'resolv.conf'), `nameserver ${address}\n`);
  }

  async close(): Promise<void> {
    for (const name of readdirSync(join(this.folder, 'networks')).filter((entry) => !entry.startsWith('.')))
      await this.tshyve('network', 'down', '-f', name);
    for (const guest of this.#guests) await run('ip', ['netns', 'delete', guest]);
    await run('ip', ['netns', 'delete', this.name]);
    rmSync(join('/etc/netns', this.name), { recursive: true, force: true });
    rmSync(this.folder, { recursive: true, force: true });
  }

  async must(command: string, ...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await run(command, args, { env: this.env, timeoutMs: 30_000 });
    expect(code, `${command} ${args.join(' ')}: ${stdout}${stderr}`).toBe(0);
    return stdout.trim();
  }

  inside(...command: string[]): Promise<string> {
    return this.must('ip', 'netns', 'exec', this.name, ...command);
  }

  async tshyve(...args: string[]): Promise<{ code: number | null; out: string; err: string }> {
    const command = ['netns', 'exec', this.name, process.execPath, program, ...args];
    const { code, stdout, stderr } = await run('ip', command, { env: this.env, timeoutMs: 60_000 });
    return { code, out: stdout.trim(), err: stderr.trim() };
  }

  async ok(...args: string[]): Promise<string> {
    const result = await this.tshyve(...args);
    expect(result.code, `tshyve ${args.join(' ')}: ${result.out}${result.err}`).toBe(0);
    return result.out;
  }

  inspect = async (name: string) =>
    JSON.parse(await this.ok('network', 'inspect', name)) as {
      state: string;
      bridge: string;
      gateway: string;
      ipv4: string;
    };

  /** A guest: a namespace with one interface on the bridge of a network. */
  async guest(network: string, number: number): Promise<string> {
    const guest = `${this.name}g${String(number)}`;
    this.#guests.push(guest);
    const { bridge } = await this.inspect(network);
    await this.must('ip', 'netns', 'add', guest);
    const [here, there] = [`v${String(number)}`, 'eth0'];
    await this.inside('ip', 'link', 'add', here, 'type', 'veth', 'peer', 'name', there, 'netns', guest);
    await this.inside('ip', 'link', 'set', here, 'master', bridge, 'up');
    await this.must('ip', '-n', guest, 'link', 'set', 'lo', 'up');
    await this.must('ip', '-n', guest, 'link', 'set', 'eth0', 'up');
    return guest;
  }

  /** Asks for an address with a real DHCP client and takes it. */
  async dhcp(guest: string, hostname: string): Promise<string> {
    const script = join(this.folder, 'udhcpc.sh');
    writeFileSync(
      script,
      '#!/bin/sh\n[ "$1" = bound ] || exit 0\nip addr add $ip/24 dev eth0\nip route add default via $router\necho "got $ip"\n',
      { mode: 0o755 },
    );
    const args = ['netns', 'exec', guest, 'busybox', 'udhcpc', '-i', 'eth0', '-n', '-q', '-t', '10', '-T', '1'];
    const { stdout, stderr } = await run('ip', [...args, '-x', `hostname:${hostname}`, '-s', script], {
      env: this.env,
      timeoutMs: 30_000,
    });
    const address = /got (\S+)/.exec(stdout)?.[1];
    expect(address, stdout + stderr).toBeDefined();
    return address ?? '';
  }

  pings(guest: string, address: string): Promise<boolean> {
    return run('ip', ['netns', 'exec', guest, 'busybox', 'ping', '-c', '1', '-W', '2', address]).then(
      ({ code }) => code === 0,
    );
  }

  async resolve(guest: string, name: string, server: string): Promise<string> {
    const { stdout } = await run('ip', ['netns', 'exec', guest, 'busybox', 'nslookup', name, server]);
    return /Address:?\s+(?:\d+:\s+)?(\d+\.\d+\.\d+\.\d+)\s*$/m.exec(stdout.split('\n').slice(3).join('\n'))?.[1] ?? '';
  }
}

describe.skipIf(cannotRun)('a shared network', () => {
  const host = new Host();
  beforeAll(() => host.open());
  afterAll(() => host.close());
  let first: string;
  let second: string;
  let addresses: string[];

  test('up makes a bridge on a free subnet; up again changes nothing', async () => {
    await host.inside('ip', 'link', 'add', 'vpn0', 'type', 'bridge');
    await host.inside('ip', 'link', 'set', 'vpn0', 'up');
    await host.inside('ip', 'route', 'add', '192.168.0.0/16', 'dev', 'vpn0');
    await host.ok('network', 'up', 'a');
    const before = await host.inspect('a');
    expect(before).toMatchObject({ state: 'up', bridge: 'tsh-a' });
    // A VPN has all of 192.168.
    expect(before.ipv4).toMatch(/^10\.197\.\d+\.0\/24$/);
    await host.ok('network', 'up', 'a');
    expect(await host.inspect('a')).toEqual(before);
    expect(await host.ok('network', 'ls')).toMatch(/^a +up +10\.197/m);
  });

  test('guests get addresses, reach each other and the host, and are found by name', async () => {
    first = await host.guest('a', 1);
    second = await host.guest('a', 2);
    addresses = [await host.dhcp(first, 'one'), await host.dhcp(second, 'two')];
    const { gateway } = await host.inspect('a');
    expect(await host.pings(first, addresses[1] ?? '')).toBe(true);
    expect(await host.pings(first, gateway)).toBe(true);
    expect(await host.resolve(first, 'two.tshyve.internal', gateway)).toBe(addresses[1]);
    expect(await host.resolve(first, 'host.docker.internal', gateway)).toBe(gateway);
    expect(await host.resolve(first, 'host.minikube.internal', gateway)).toBe(gateway);
  });

  test('a second network is apart from the first', async () => {
    await host.ok('network', 'up', 'b');
    const stranger = await host.guest('b', 3);
    const address = await host.dhcp(stranger, 'stranger');
    const [a, b] = [await host.inspect('a'), await host.inspect('b')];
    expect(a.ipv4).not.toBe(b.ipv4);
    expect(await host.pings(stranger, addresses[0] ?? '')).toBe(false);
    expect(await host.pings(first, address)).toBe(false);
    // The host itself reaches both.
    await host.inside('busybox', 'ping', '-c', '1', '-W', '2', address);
    await host.inside('busybox', 'ping', '-c', '1', '-W', '2', addresses[0] ?? '');
  });

  test('a killed dnsmasq comes back, and gives the same address', async () => {
    const pid = dnsmasqPid('a');
    expect(pid).toBeGreaterThan(0);
    process.kill(pid, 'SIGKILL');
    await expect.poll(() => dnsmasqPid('a'), { timeout: 10_000 }).not.toBe(pid);
    await expect.poll(() => dnsmasqPid('a'), { timeout: 10_000 }).toBeGreaterThan(0);
    await host.must('ip', '-n', first, 'addr', 'flush', 'dev', 'eth0');
    expect(await host.dhcp(first, 'one')).toBe(addresses[0]);
  });

  test('a removed bridge comes back, and serves', async () => {
    await host.inside('ip', 'link', 'delete', 'tsh-a');
    await expect
      .poll(async () => (await run('ip', ['-n', host.name, 'link', 'show', 'tsh-a'])).code, { timeout: 10_000 })
      .toBe(0);
    // The guests here are veth pairs, not taps of ours: the test puts them back.
    await host.inside('ip', 'link', 'set', 'v1', 'master', 'tsh-a');
    await host.must('ip', '-n', first, 'addr', 'flush', 'dev', 'eth0');
    expect(await host.dhcp(first, 'one')).toBe(addresses[0]);
  });

  test('names outside follow the resolver of the host as it changes', async () => {
    const answers: ChildProcess[] = [];
    const serve = async (address: string, answer: string) => {
      const args = ['--keep-in-foreground', '--conf-file=/dev/null', '--no-resolv', '--no-hosts', '--bind-interfaces'];
      const child = spawn(
        'ip',
        [
          'netns',
          'exec',
          host.name,
          'dnsmasq',
          ...args,
          `--listen-address=${address}`,
          '--except-interface=none',
          `--address=/corp.example/${answer}`,
          '--pid-file=',
        ],
        { env: host.env, stdio: 'ignore' },
      );
      answers.push(child);
      await new Promise((settle) => setTimeout(settle, 300));
    };
    try {
      await serve('127.0.0.9', '203.0.113.1');
      await serve('127.0.0.10', '203.0.113.2');
      const { gateway } = await host.inspect('a');
      await expect.poll(() => host.resolve(first, 'x.corp.example', gateway), { timeout: 10_000 }).toBe('203.0.113.1');
      host.setResolver('127.0.0.10');
      await expect.poll(() => host.resolve(first, 'y.corp.example', gateway), { timeout: 15_000 }).toBe('203.0.113.2');
    } finally {
      for (const child of answers) child.kill('SIGKILL');
    }
  });

  test('a killed keeper leaves a stale network, which up takes over', async () => {
    const status = JSON.parse(readFileSync(join(host.folder, 'networks/a/status.json'), 'utf8')) as {
      keeperPid: number;
    };
    expect(status.keeperPid).toBeGreaterThan(1);
    process.kill(status.keeperPid, 'SIGKILL');
    await expect.poll(async () => (await host.inspect('a')).state, { timeout: 5000 }).toBe('stale');
    expect(dnsmasqPid('a')).toBe(0);
    await host.ok('network', 'up', 'a');
    await host.must('ip', '-n', first, 'addr', 'flush', 'dev', 'eth0');
    expect(await host.dhcp(first, 'one')).toBe(addresses[0]);
  });

  test('down refuses while machines are attached, and then leaves nothing', async () => {
    const refused = await host.tshyve('network', 'down', 'a');
    expect(refused.code).toBe(6);
    expect(refused.err).toContain('attached');
    await host.ok('network', 'down', '--force', 'a');
    await host.ok('network', 'down', '--force', 'b');
    expect(await host.inside('ip', '-o', 'link', 'show')).not.toContain('tsh-');
    expect(await host.inside('nft', 'list', 'ruleset')).toBe('');
    expect(await host.inside('cat', '/proc/sys/net/ipv4/ip_forward')).toBe('0');
    // A lock file is never deleted: that would let two holders in.
    expect(readdirSync(join(host.folder, 'networks'))).toEqual(['.lock']);
    expect(dnsmasqPid('a')).toBe(0);
    expect((await host.tshyve('network', 'inspect', 'a')).code).toBe(3);
    expect((await host.tshyve('network', 'up', 'Bad_Name')).code).toBe(2);
  });

  /** The dnsmasq of a network of this test; 0 when none runs. */
  function dnsmasqPid(network: string): number {
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      try {
        const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
        if (words[0]?.endsWith('dnsmasq') && words[1]?.includes(join(host.folder, 'networks', network)))
          return Number(pid);
      } catch {
        // Gone meanwhile.
      }
    }
    return 0;
  }
});
