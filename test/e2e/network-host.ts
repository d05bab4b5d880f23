import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { expect } from 'vitest';

import { run } from '../../driver/base/index.js';

const root = resolve(import.meta.dirname, '../..');
const program = join(root, 'dist/tshyve.cjs');
const inCI = process.env['CI'] === 'true';
/** True where a real part is missing that this machine may do without; CI may not. */
export const cannotRunNetworks =
  !inCI &&
  (process.getuid?.() !== 0 ||
    !existsSync(program) ||
    !existsSync('/usr/sbin/dnsmasq') ||
    !existsSync('/usr/bin/slirp4netns'));
if (cannotRunNetworks)
  console.warn('Shared-network tests need root, dnsmasq, slirp4netns and a built dist: run scripts/test.sh');

/** A network namespace that stands for the host, and others, wired to its bridges, that stand for machines. */
export class Host {
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

  /** A namespace for a guest, with nothing in it. */
  async bareGuest(number: number): Promise<string> {
    const guest = `${this.name}g${String(number)}`;
    this.#guests.push(guest);
    await this.must('ip', 'netns', 'add', guest);
    return guest;
  }

  /** A guest: a namespace with one interface on the bridge of a network. */
  async guest(network: string, number: number): Promise<string> {
    const { bridge } = await this.inspect(network);
    const guest = await this.bareGuest(number);
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
