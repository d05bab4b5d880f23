import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Readable } from 'node:stream';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { run } from '../../driver/base/index.js';
import type { NetworkSpec } from '../../driver/hypervisor/index.js';
import { elf, hang, print } from '../unit/hypervisor/tiny-guest.js';
import { Host, cannotRunNetworks } from './network-host.js';

const vmm = resolve(import.meta.dirname, '../../dist/tshyve-vmm.cjs');
const [ALICE, BOB, CAROL, STAFF] = [4001, 4002, 4003, 4100];

/** Supervisors of users without any privilege, with real taps and a real QEMU; their guests only hang. */
describe.skipIf(cannotRunNetworks)('machines of users without privileges', () => {
  const host = new Host();
  const running: ChildProcess[] = [];
  let machines = 0;
  beforeAll(async () => {
    await host.open();
    chmodSync(host.folder, 0o755);
    writeFileSync(join(host.folder, 'kernel'), elf(print('up'), hang()));
    // Where udev runs, it is open to all.
    await host.must('mknod', join(host.folder, 'tun'), 'c', '10', '200');
    chmodSync(join(host.folder, 'tun'), 0o666);
  });
  afterAll(async () => {
    await Promise.all(running.map(end));
    await host.close();
  });

  async function end(child: ChildProcess): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const closed = once(child, 'close');
    child.kill('SIGKILL');
    await closed;
  }

  /** The words that run a program as a user, in the namespace that stands for the host. */
  function as(uid: number, group: number | undefined, ...command: string[]): string[] {
    const tun = `mount --bind ${join(host.folder, 'tun')} /dev/net/tun && exec "$@"`;
    const groups = group === undefined ? ['--clear-groups'] : ['--groups', String(group)];
    const user = ['setpriv', '--reuid', String(uid), '--regid', String(uid), ...groups, '--no-new-privs'];
    return ['netns', 'exec', host.name, 'sh', '-c', tun, 'sh', ...user, '--', ...command];
  }

  /** Starts a supervisor by its own protocol. @returns its answer */
  async function launch(uid: number, name: string, options: { mac?: string; group?: number } = {}) {
    const number = String(++machines).padStart(2, '0');
    const machineDirectory = join(host.folder, `machine-${number}`);
    for (const folder of [machineDirectory, join(host.folder, `run-${String(uid)}`)]) {
      mkdirSync(folder, { recursive: true, mode: 0o700 });
      chownSync(folder, uid, uid);
    }
    const mac = options.mac ?? `02:00:00:00:40:${number}`;
    const network: NetworkSpec = {
      mode: 'tap',
      mac,
      hostname: name,
      network: 'a',
      interface: `tsht${mac.replaceAll(':', '').slice(-10)}`,
      services: [],
    };
    const spec = {
      name,
      uuid: `00000000-0000-8000-8000-0000000000${number}`,
      cpus: 1,
      memoryMiB: 64,
      boot: { kernel: join(host.folder, 'kernel'), initrd: '', commandLine: '' },
      disks: [],
      network,
    };
    const request = { machineDirectory, id: `00000000000000${number}`, hypervisor: 'qemu', spec };
    const env = { ...host.env, HOME: machineDirectory, TSHYVE_RUN_DIR: join(host.folder, `run-${String(uid)}`) };
    const child = spawn('ip', as(uid, options.group, process.execPath, vmm, '--launch'), {
      env,
      stdio: ['pipe', 'ignore', 'ignore', 'pipe'],
    });
    running.push(child);
    child.stdin?.end(JSON.stringify(request));
    let text = '';
    for await (const chunk of (child.stdio[3] as Readable).setEncoding('utf8')) text += chunk as string;
    const answer = JSON.parse(text) as { ready?: true; error?: { message: string } };
    return { answer, child, tap: network.interface, mac, runDirectory: join(env.TSHYVE_RUN_DIR, request.id) };
  }
  const links = async () => (await host.inside('ip', '-o', 'link', 'show')).match(/tsht[0-9a-f]+/g) ?? [];
  const owner = (tap: string, kind: 'owner' | 'group') => host.inside('cat', `/sys/class/net/${tap}/${kind}`);

  test('a user who was not named is told the command that names them', async () => {
    await host.ok('network', 'up', 'a');
    const { answer } = await launch(ALICE, 'one');
    expect(answer.error?.message).toMatch(
      /User 4001 may not attach machines to the network "a". Run once: "sudo tshyve network up a --user 4001"/,
    );
    expect(await links()).toEqual([]);
  });

  test('named while the network is up, they get an interface that is theirs alone', async () => {
    await host.ok('network', 'up', 'a', '--user', String(ALICE), '--user', String(BOB), '--group', String(STAFF));
    expect(await host.inspect('a')).toMatchObject({ permitted: { users: [ALICE, BOB], groups: [STAFF] } });
    const { answer, tap, mac } = await launch(ALICE, 'one');
    expect(answer).toEqual({ ready: true });
    expect(await owner(tap, 'owner')).toBe(String(ALICE));
    expect(await host.inside('ip', '-o', 'link', 'show', 'master', 'tsh-a')).toContain(`${tap}:`);
    expect(readFileSync(join(host.folder, 'networks/a/hosts', tap), 'utf8')).toBe(`${mac},one\n`);
    // The supervisor must be able to see its lease.
    await run('ip', as(ALICE, undefined, 'cat', join(host.folder, 'networks/a/dnsmasq.leases'))).then((result) => {
      expect(result.code).toBe(0);
    });
  });

  test("nobody gets another's interface or name, or speaks for another", async () => {
    const { answer: stolen } = await launch(BOB, 'two', { mac: '02:00:00:00:40:02' });
    expect(stolen.error?.message).toMatch(/belongs to somebody else's machine/);
    const { answer: namesake } = await launch(BOB, 'ONE');
    expect(namesake.error?.message).toMatch(/Another user's machine on the network "a" is called "ONE"/);
    const socket = join(host.folder, `networks/a/access/user-${String(ALICE)}`);
    const attempt = await run(
      'ip',
      as(
        BOB,
        undefined,
        process.execPath,
        '-e',
        `require('net').connect('${socket}').on('error', (e) => console.log(e.code))`,
      ),
    );
    expect(attempt.stdout.trim()).toBe('EACCES');
    expect(await links()).toHaveLength(1);
  });

  test('a member of a group gets one that the group may open; others do not', async () => {
    const { answer, tap } = await launch(CAROL, 'three', { group: STAFF });
    expect(answer).toEqual({ ready: true });
    expect(await owner(tap, 'group')).toBe(String(STAFF));
    const { answer: outsider } = await launch(CAROL, 'four');
    expect(outsider.error?.message).toContain('may not attach');
  });

  test('requests that are not ours are refused, and the keeper lives on', async () => {
    const socket = join(host.folder, `networks/a/access/user-${String(ALICE)}`);
    const script = `
      const { connect } = require('net');
      const ask = (text) => new Promise((done) => {
        let answer = '';
        connect('${socket}').on('data', (d) => (answer += d)).on('error', () => 0).on('close', () => done(answer.trim())).end(text);
      });
      (async () => {
        const attach = (fields) => JSON.stringify({ action: 'attach', mac: '02:00:00:00:41:01', machineName: 'x', ...fields }) + '\\n';
        console.log(JSON.stringify([
          await ask('nonsense\\n'), await ask(attach({ mac: '01:00:5e:00:00:01' })), await ask(attach({ mac: '02:00:00:00:41:01 x' })),
          await ask(attach({ machineName: 'a,b' })), await ask(attach({ machineName: 'a\\nb' })), await ask(attach({ action: 'own' })), await ask('x'.repeat(5000)),
        ]));
      })();`;
    const { stdout } = await run('ip', as(ALICE, undefined, process.execPath, '-e', script), { env: host.env });
    const answers = JSON.parse(stdout) as string[];
    expect(answers).toHaveLength(7);
    for (const answer of answers.slice(0, 6)) expect(answer).toContain('malformed');
    expect(answers[6]).toBe('');
    expect(await links()).toHaveLength(2);
  });

  test('a machine takes its interface along, however its supervisor ends', async () => {
    const first = await launch(BOB, 'five');
    expect(first.answer).toEqual({ ready: true });
    // The interface of a supervisor that was killed serves the next one.
    await end(first.child);
    expect(await links()).toContain(first.tap);
    const again = await launch(BOB, 'five', { mac: first.mac });
    expect(again.answer).toEqual({ ready: true });
    expect((await links()).filter((name) => name === again.tap)).toHaveLength(1);
    const { vmPid } = JSON.parse(readFileSync(join(again.runDirectory, 'status.json'), 'utf8')) as { vmPid: number };
    process.kill(Math.max(vmPid, 2), 'SIGKILL');
    await expect.poll(links).not.toContain(again.tap);
    expect(existsSync(join(host.folder, 'networks/a/hosts', again.tap))).toBe(false);
  });

  test('who is not named any more, may no more; a restarted keeper remembers, and keeps the interfaces', async () => {
    await host.ok('network', 'up', 'a', '--user', String(BOB));
    const { answer } = await launch(ALICE, 'six');
    expect(answer.error?.message).toContain('may not attach');
    const before = await links();
    const { keeperPid } = JSON.parse(readFileSync(join(host.folder, 'networks/a/status.json'), 'utf8')) as {
      keeperPid: number;
    };
    process.kill(keeperPid, 'SIGTERM');
    await expect.poll(async () => (await host.inspect('a')).state).toBe('down');
    expect(existsSync(join(host.folder, 'networks/a/access'))).toBe(false);
    await host.ok('network', 'up', 'a');
    expect(readdirSync(join(host.folder, 'networks/a/access'))).toEqual([`user-${String(BOB)}`]);
    const onBridge = await host.inside('ip', '-o', 'link', 'show', 'master', 'tsh-a');
    for (const tap of before) expect(onBridge).toContain(`${tap}:`);
    expect((await launch(BOB, 'seven')).answer).toEqual({ ready: true });
  });

  test('a user or group that does not exist is named', async () => {
    const result = await host.tshyve('network', 'up', 'a', '--user', 'no-such-user');
    expect(result.code).toBe(2);
    expect(result.err).toContain('There is no user "no-such-user" on this host');
  });
});
