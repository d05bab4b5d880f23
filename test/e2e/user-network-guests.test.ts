import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';

import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';

import { noLog } from '../../driver/base/index.js';
import { Membership, portSockets } from '../../driver/user-network/index.js';
import { Host, cannotRunNetworks } from './network-host.js';

const root = resolve(import.meta.dirname, '../..');
const missing =
  process.env['CI'] !== 'true' &&
  !(existsSync(join(root, 'prebuilds/linux-x64/tshyve.glibc.node')) && existsSync('/dev/net/tun'));

/**
 * What a hypervisor does with a machine's port, without one: frames go from a tap interface to the switch and back.
 * TUNSETIFF and the flags IFF_TAP and IFF_NO_PI are of <linux/if_tun.h>.
 */
const nic = `
use Socket; my ($nic, $switch) = @ARGV; $SIG{HUP} = 'IGNORE';
sysopen(my $tap, '/dev/net/tun', 2) or die; my $ask = pack('a16 s x22', 'eth0', 0x1002); ioctl($tap, 0x400454ca, $ask) or die;
socket(my $port, AF_UNIX, SOCK_DGRAM, 0) or die; bind($port, pack_sockaddr_un($nic)) or die; $| = 1; print "bound\\n";
while (1) {
  my $ready = ''; vec($ready, fileno($tap), 1) = 1; vec($ready, fileno($port), 1) = 1; select($ready, undef, undef, undef);
  if (vec($ready, fileno($tap), 1) && sysread($tap, my $out, 65600)) { send($port, $out, 0, pack_sockaddr_un($switch)); }
  if (vec($ready, fileno($port), 1) && defined recv($port, my $in, 65600, 0)) { syswrite($tap, $in); }
}`;

/** Real switch and real network stacks: namespaces with a tap each stand for the guests, and one for the host. */
describe.skipIf(cannotRunNetworks || missing)('guests on a user-mode network', () => {
  const host = new Host();
  const children: ChildProcess[] = [];
  const members: Membership[] = [];
  const guests: string[] = [];
  const addresses: string[] = [];
  const run = join(host.folder, 'run');
  const folder = join(run, 'net-lab');

  beforeAll(async () => {
    mkdirSync(join(host.folder, 'networks'), { recursive: true });
    Object.assign(process.env, { TSHYVE_RUN_DIR: run, TSHYVE_HOME: join(host.folder, 'home') });
    await host.open();
    // A host that has IPv6, and lets everybody send echo requests.
    await host.inside('ip', 'link', 'add', 'up0', 'type', 'veth', 'peer', 'name', 'up1');
    await host.inside('ip', 'address', 'add', '192.0.2.2/24', 'dev', 'up0');
    await host.inside('ip', 'address', 'add', '2001:db8::2/64', 'dev', 'up0', 'nodad');
    for (const link of ['up0', 'up1']) await host.inside('ip', 'link', 'set', link, 'up');
    await host.inside('ip', '-6', 'route', 'add', 'default', 'via', '2001:db8::1');
    await permitEcho('0 65535');
    const env = { ...host.env, TSHYVE_RUN_DIR: run };
    const program = [process.execPath, join(root, 'dist/tshyve-switch.cjs'), '--network', 'lab'];
    // Without root's right to send what it likes.
    const asUser = ['setpriv', '--bounding-set', '-net_raw', '--'];
    children.push(spawn('ip', ['netns', 'exec', host.name, ...asUser, ...program], { env, stdio: 'ignore' }));
    await vi.waitUntil(() => existsSync(join(folder, 'switch.sock')), { timeout: 10_000 });
    for (const number of [1, 2]) {
      const mac = `02:00:00:00:43:0${String(number)}`;
      const sockets = portSockets('lab', mac);
      const spec = { mode: 'switch' as const, mac, hostname: `m${String(number)}`, network: 'lab', ...sockets };
      const member = await Membership.join(
        { ...spec, hostAddress: `127.64.43.${String(number)}`, forwards: [] },
        noLog,
      );
      members.push(member);
      const guest = await host.bareGuest(number);
      guests.push(guest);
      const words = ['netns', 'exec', guest, 'perl', '-e', nic, sockets.machineSocket, sockets.switchSocket];
      const child = spawn('ip', words, { stdio: ['ignore', 'pipe', 'inherit'] });
      children.push(child);
      const said = new Promise((settle) => child.stdout.once('data', settle).once('close', settle));
      expect(String(await said)).toContain('bound');
      member.watch(
        () => undefined,
        () => undefined,
      );
      await host.must('ip', '-n', guest, 'link', 'set', 'eth0', 'address', mac);
      await host.must('ip', '-n', guest, 'link', 'set', 'eth0', 'up');
      addresses.push(await host.dhcp(guest, `m${String(number)}`));
    }
  });
  afterAll(async () => {
    await Promise.all(members.map((member) => member.leave()));
    for (const child of children) child.kill('SIGKILL');
    await host.close();
  });

  /** Lets the groups of this range send echo requests without privileges, icmp(7). */
  const permitEcho = (range: string) =>
    host.inside('busybox', 'sh', '-c', `echo "${range}" > /proc/sys/net/ipv4/ping_group_range`);
  const pings = (guest: string, address: string) => host.pings(guest, address);

  test('ICMP echo reaches the other guests, the gateway, and the world', async () => {
    expect(addresses).toEqual(['10.0.2.15', '10.0.2.16']);
    expect(await pings(guests[0] ?? '', addresses[1] ?? '')).toBe(true);
    expect(await pings(guests[0] ?? '', '10.0.2.2')).toBe(true);
    // An address of the host that is not its loopback.
    expect(await pings(guests[0] ?? '', '192.0.2.2')).toBe(true);
  });

  test('where the host forbids echo to the world, only that is missing', async () => {
    const [guest = ''] = guests;
    await permitEcho('1 0');
    expect(await pings(guest, '192.0.2.2')).toBe(false);
    expect(await pings(guest, '10.0.2.2')).toBe(true);
    expect(await pings(guest, addresses[1] ?? '')).toBe(true);
    await permitEcho('0 65535');
    expect(await pings(guest, '192.0.2.2')).toBe(true);
  });

  test('where the host has IPv6, guests are given addresses and reach it', async () => {
    const [guest = '', other = ''] = guests;
    const global = async (name: string) => {
      const shown = await host.must('ip', '-n', name, '-6', '-o', 'addr', 'show', 'dev', 'eth0');
      return /inet6 (fec0\S+)\/64/.exec(shown)?.[1] ?? '';
    };
    await expect.poll(() => global(guest), { timeout: 20_000 }).toMatch(/^fec0:/);
    expect(await host.must('ip', '-n', guest, '-6', 'route', 'show', 'default')).toContain('via fe80::2');
    const server = `require('net').createServer((s) => s.end('six')).listen(8086, '2001:db8::2')`;
    children.push(spawn('ip', ['netns', 'exec', host.name, process.execPath, '-e', server], { stdio: 'ignore' }));
    const script = `require('net').connect(8086, '2001:db8::2').on('data', (d) => console.log(String(d))).on('error', () => 0)`;
    const hear = () => host.must('ip', 'netns', 'exec', guest, process.execPath, '-e', script);
    await expect.poll(hear).toBe('six');
    await expect.poll(() => global(other), { timeout: 20_000 }).toMatch(/^fec0:/);
    const there = await global(other);
    // It may be tentative still (duplicate address detection).
    await expect.poll(() => pings(guest, there)).toBe(true);
  });

  test('a run folder that is deleted comes back on both sides', async () => {
    const [guest = '', other = ''] = guests;
    rmSync(folder, { recursive: true });
    // Frames travel both ways again: the guests have forgotten each other.
    const works = async () => {
      for (const name of [guest, other]) await host.must('ip', '-n', name, 'neigh', 'flush', 'dev', 'eth0');
      return (await pings(guest, addresses[1] ?? '')) && (await pings(other, '10.0.2.2'));
    };
    await expect.poll(works, { timeout: 20_000 }).toBe(true);
    expect(await host.dhcp(guest, 'm1')).toBe(addresses[0]);
    // One file alone: the machine's end.
    rmSync(portSockets('lab', '02:00:00:00:43:01').machineSocket);
    await expect.poll(works).toBe(true);
    await Promise.all(members.map((member) => member.leave()));
    await expect.poll(() => readdirSync(folder)).toEqual(['switch.lock', 'switch.log']);
  });
});
