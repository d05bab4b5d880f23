import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type Socket, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { run } from '../../driver/base/index.js';
import { FrameCutter, encodePrefix } from '../../driver/hypervisor/qemu/relay/frame-cutter.js';
import { VpnkitPeer } from '../vpnkit-peer.js';
import { cannotRunNetworks } from './network-host.js';
import { World, cannotRun, inTheLab } from './world.js';

const missing = !existsSync('/usr/bin/passt') && process.env['CI'] !== 'true';
const passtMac = '9a:55:9a:55:9a:55';
/** passt becomes this user when root starts it. */
const NOBODY = 65_534;
const GUEST_ADDRESS = '192.0.2.2';

/** The real passt of the distribution, in a namespace that stands for the host. */
describe.skipIf(cannotRun || cannotRunNetworks || missing || inTheLab)('a machine behind a socket', () => {
  const namespace = `tss${String(process.pid)}`;
  const world = new World();
  const sockets = mkdtempSync(join(tmpdir(), 'tss-'));
  const path = join(sockets, 'passt');
  let passt: ChildProcess | undefined;

  beforeAll(async () => {
    chownSync(sockets, NOBODY, NOBODY);
    await must('ip', 'netns', 'add', namespace);
    // passt gives the guest the address of the host, and needs one with a default route for that.
    await inside('ip', 'link', 'add', 'up0', 'type', 'veth', 'peer', 'name', 'up1');
    await inside('ip', 'address', 'add', `${GUEST_ADDRESS}/24`, 'dev', 'up0');
    for (const link of ['lo', 'up0', 'up1']) await inside('ip', 'link', 'set', link, 'up');
    await inside('ip', 'route', 'add', 'default', 'via', '192.0.2.1');
  });
  afterAll(async () => {
    await tshyve('rm', '-f', 'box');
    passt?.kill('SIGKILL');
    await run('ip', ['netns', 'delete', namespace]);
    rmSync(sockets, { recursive: true, force: true });
    await world.close();
  });

  async function must(program: string, ...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await run(program, args, { env: world.env, timeoutMs: 300_000 });
    expect(code, `${program} ${args.join(' ')}: ${stdout}${stderr}`).toBe(0);
    return stdout.trim();
  }
  const inside = (...command: string[]) => must('ip', 'netns', 'exec', namespace, ...command);
  const command = (...args: string[]) => [join(world.bin, 'tshyve'), '-s', world.store, ...args];
  const ok = (...args: string[]) => inside(...command(...args));
  const tshyve = (...args: string[]) =>
    run('ip', ['netns', 'exec', namespace, ...command(...args)], { env: world.env, timeoutMs: 300_000 });

  async function startPasst(): Promise<void> {
    rmSync(path, { force: true });
    const forwards = ['-t', '127.0.0.1/2222:22', '-t', '127.0.0.1/12376:2376'];
    const args = ['netns', 'exec', namespace, 'passt', '-f', '-q', '-s', path, '-M', passtMac, ...forwards];
    // ip-netns-exec(8) becomes passt.
    passt = spawn('ip', args, { env: world.env, stdio: 'ignore' });
    await expect.poll(() => existsSync(path)).toBe(true);
  }
  async function killPasst(): Promise<void> {
    if (passt === undefined) return;
    const ended = once(passt, 'close');
    passt.kill('SIGKILL');
    await ended;
  }
  const network = () => `socket:passt:${path},ssh=127.0.0.1:2222,docker=127.0.0.1:12376`;
  const create = (value: string) => {
    const flags = ['--memory', '512', '--cpus', '1', '--boot-timeout', '120', '--network', value];
    return tshyve('create', 'box', ...flags);
  };

  test('names a peer that is not there before anything is made', async () => {
    const { code, stderr } = await create(network());
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/There is no socket .*passt. Start the network program/);
    expect(existsSync(world.machineFolder('box'))).toBe(false);
  });

  test('passt: the address is seen as DHCP gives it, Docker answers at the forwarded port', async () => {
    await startPasst();
    const created = await create(network());
    expect(created.code, created.stderr).toBe(0);
    expect(readFileSync(join(world.machineFolder('box'), 'vmm.log'), 'utf8')).toContain(`event lease ${GUEST_ADDRESS}`);
    expect(await ok('ip', 'box')).toBe('127.0.0.1');
    expect(await ok('url', 'box')).toBe('tcp://127.0.0.1:12376');
    expect(await ok('ssh', 'box', 'ip -4 -o addr show eth0')).toContain(` ${GUEST_ADDRESS}/24`);
  });

  test('passt killed and started again: the machine is back without a restart', async () => {
    const uptime = Number(await ok('ssh', 'box', 'cut -d. -f1 /proc/uptime'));
    await killPasst();
    expect((await tshyve('ssh', 'box', 'true')).code).not.toBe(0);
    await startPasst();
    await expect
      .poll(async () => (await tshyve('ssh', 'box', 'true')).code, { timeout: 60_000, interval: 500 })
      .toBe(0);
    expect(Number(await ok('ssh', 'box', 'cut -d. -f1 /proc/uptime'))).toBeGreaterThanOrEqual(uptime);
    await ok('stop', 'box');
  });

  test("VPNKit's framing: QEMU's guest gets the MAC and the network of the peer", async () => {
    // What the peer carries goes on to passt, which is the network behind it.
    await killPasst();
    await startPasst();
    const mac = 'c0:ff:ee:00:00:02';
    const behind: Socket = connect(path);
    await once(behind, 'connect');
    const peer = new VpnkitPeer(mac, (frame) => {
      behind.write(Buffer.concat([encodePrefix('big-endian 32', frame.length), frame]));
    });
    const cutter = new FrameCutter('big-endian 32');
    behind.on('data', (chunk) => cutter.push(chunk)?.frames.forEach((frame) => peer.send(frame)));
    try {
      const vpnkit = join(sockets, 'vpnkit');
      await peer.listen(vpnkit);
      const file = join(world.machineFolder('box'), 'config.json');
      const config = JSON.parse(readFileSync(file, 'utf8')) as { Driver: { Network: string } };
      config.Driver.Network = `socket:vpnkit:${vpnkit},ssh=127.0.0.1:2222,docker=127.0.0.1:12376`;
      writeFileSync(file, JSON.stringify(config));
      await ok('start', 'box');
      expect(await ok('ssh', 'box', 'cat /sys/class/net/eth0/address')).toBe(mac);
      const { uuid } = JSON.parse(readFileSync(join(world.machineFolder('box'), 'tshyve.json'), 'utf8')) as {
        uuid: string;
      };
      expect(peer.clients).toEqual([uuid]);
    } finally {
      behind.destroy();
      await peer.close();
    }
  });
});
