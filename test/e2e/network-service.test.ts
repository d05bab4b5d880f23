import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { run } from '../../driver/base/index.js';
import { Host, cannotRunNetworks } from './network-host.js';

const UNIT = 'tshyve-network-a.service';

/** The unit as systemd would run it: its command line, environment and capabilities, word for word. */
describe.skipIf(cannotRunNetworks)('a network that comes up at boot', () => {
  const host = new Host();
  const units = join(host.folder, 'units');
  Object.assign(host.env, { TSHYVE_UNITS: units });
  let service: ChildProcess | undefined;
  beforeAll(() => host.open());
  afterAll(async () => {
    service?.kill('SIGKILL');
    await host.close();
  });
  const unit = () => readFileSync(join(units, UNIT), 'utf8');
  const settings = (key: string) =>
    [...unit().matchAll(new RegExp(`^${key}=(.*)$`, 'gm'))].map((match) => match[1] ?? '');

  test('up --boot writes a unit that systemd accepts, and enables it', async () => {
    await host.ok('network', 'up', 'a', '--boot', '--user', '4001');
    expect(readlinkSync(join(units, 'multi-user.target.wants', UNIT))).toBe(`../${UNIT}`);
    const { code, stderr } = await run('systemd-analyze', ['verify', '--recursive-errors=no', join(units, UNIT)]);
    expect(stderr.split('\n').filter((line) => line.includes('tshyve'))).toEqual([]);
    expect(code, stderr).toBe(0);
    const { stdout } = await run('systemd-analyze', ['security', '--offline=true', '--no-pager', join(units, UNIT)]);
    expect(Number(/exposure level.*?: ([\d.]+)/.exec(stdout)?.[1])).toBeLessThan(5);
  });

  test('after a reboot the unit brings the same network up, with the capabilities it leaves', async () => {
    const before = await host.inspect('a');
    // What a reboot leaves: files, and nothing of the kernel's.
    const { keeperPid } = JSON.parse(readFileSync(join(host.folder, 'networks/a/status.json'), 'utf8')) as {
      keeperPid: number;
    };
    process.kill(keeperPid, 'SIGTERM');
    await expect.poll(async () => (await host.inspect('a')).state).toBe('down');
    await startService();
    expect(await host.inspect('a')).toEqual(before);
    expect(before).toMatchObject({ permitted: { users: [4001], groups: [] } });
    const guest = await host.guest('a', 1);
    expect(await host.dhcp(guest, 'one')).toMatch(/^\d+\./);
  });

  test('killed and started again, as Restart= does it, it takes over what is left', async () => {
    const [child] = [service];
    child?.kill('SIGKILL');
    await expect.poll(async () => (await host.inspect('a')).state).toBe('stale');
    await startService();
    expect((await host.inspect('a')).state).toBe('up');
    expect(settings('Restart')).toEqual(['on-failure']);
  });

  test('down ends the service and removes the unit', async () => {
    const ended = service === undefined ? undefined : once(service, 'close');
    await host.ok('network', 'down', '--force', 'a');
    // Anything but success would have systemd start it again.
    expect(await ended).toEqual([0, null]);
    expect(existsSync(join(units, UNIT))).toBe(false);
    expect(readdirSync(join(units, 'multi-user.target.wants'))).toEqual([]);
  });

  /** Runs ExecStart as systemd would, until it says that it is up. */
  async function startService(): Promise<void> {
    const [command = ''] = settings('ExecStart');
    // No path here has a quote or a blank.
    const words = command.split(' ');
    expect(words[0]?.startsWith('/')).toBe(true);
    const environment = Object.fromEntries(
      settings('Environment').flatMap((line) => line.split(' ').map((pair) => pair.split('=') as [string, string])),
    );
    expect(environment['TSHYVE_NETWORKS']).toBe(join(host.folder, 'networks'));
    const capabilities = settings('CapabilityBoundingSet').flatMap((line) => line.toLowerCase().split(' '));
    const bounding = `-all,${capabilities.map((name) => name.replace('cap_', '+')).join(',')}`;
    expect(settings('NoNewPrivileges')).toEqual(['yes']);
    const notify = join(host.folder, 'notify');
    // The socket that systemd would listen at (sd_notify(3)); Node cannot make one of this kind.
    const listen =
      'use Socket; socket S,AF_UNIX,SOCK_DGRAM,0; unlink $ARGV[0]; bind S,pack_sockaddr_un $ARGV[0]; $|=1; print "bound\\n"; recv S,$m,99,0; print $m; exit';
    const systemd = spawn('perl', ['-e', listen, notify], { stdio: ['ignore', 'pipe', 'ignore'] });
    let said = '';
    systemd.stdout.setEncoding('utf8').on('data', (chunk: string) => (said += chunk));
    try {
      await expect.poll(() => said).toContain('bound');
      const limits = ['--bounding-set', bounding, '--inh-caps', '-all', '--no-new-privs'];
      service = spawn('ip', ['netns', 'exec', host.name, 'setpriv', ...limits, '--', ...words], {
        env: { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin', ...environment, NOTIFY_SOCKET: notify },
        stdio: 'ignore',
      });
      await expect.poll(() => said, { timeout: 20_000 }).toContain('READY=1');
    } finally {
      systemd.kill();
    }
  }
});
