import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { run } from '../../driver/base/index.js';
import { Host, cannotRunNetworks } from './network-host.js';

describe.skipIf(cannotRunNetworks)('a shared network', () => {
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
    await expect.poll(() => dnsmasqPid('a')).not.toBe(pid);
    await expect.poll(() => dnsmasqPid('a')).toBeGreaterThan(0);
    await host.must('ip', '-n', first, 'addr', 'flush', 'dev', 'eth0');
    expect(await host.dhcp(first, 'one')).toBe(addresses[0]);
  });

  test('a removed bridge comes back, and serves', async () => {
    await host.inside('ip', 'link', 'delete', 'tsh-a');
    await expect.poll(async () => (await run('ip', ['-n', host.name, 'link', 'show', 'tsh-a'])).code).toBe(0);
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
      await expect.poll(() => host.resolve(first, 'x.corp.example', gateway)).toBe('203.0.113.1');
      host.setResolver('127.0.0.10');
      await expect.poll(() => host.resolve(first, 'y.corp.example', gateway)).toBe('203.0.113.2');
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
