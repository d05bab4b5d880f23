import { once } from 'node:events';
import { readdirSync, statSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join, resolve } from 'node:path';

import { afterAll, describe, expect, test } from 'vitest';

import { Bench, nativeCannotRun } from './bench.js';
import { echoUntil, elf, hang, powerOff, print, reset } from './tiny-guest.js';

/** The real core on the real /dev/kvm, whatever its speed. */
describe.skipIf(nativeCannotRun)('a machine of the native core', () => {
  const bench = new Bench('native');
  const { folder } = bench;
  afterAll(() => bench.close());
  test('prints and powers off', async () => {
    const { machine, console } = await bench.launch([print('hello\n'), powerOff()]);
    expect(machine).toMatchObject({ pid: undefined, accelerator: 'kvm', forwards: [] });
    expect(await machine.exited).toEqual({ reason: 'shutdown', detail: 'The guest powered off.' });
    expect(console()).toBe('hello\n');
    await expect(machine.pause()).rejects.toMatchObject({ kind: 'not-running' });
    await machine.kill();
  });

  test('has the sockets of its vsock as long as it runs, also when it restarts', async () => {
    const directory = join(folder, 'vsock');
    const vsock = { directory, ports: [22, 1024] };
    const { machine, console } = await bench.launch([print('boot\n'), reset()], {
      change: (spec) => ({ ...spec, vsock }),
    });
    await expect.poll(console).toMatch(/^(boot\n){3}/);
    await machine.kill();
    const still = await bench.launch([print('up'), hang()], { change: (spec) => ({ ...spec, vsock }) });
    await expect.poll(still.console).toBe('up');
    expect(statSync(directory).mode & 0o777).toBe(0o700);
    const names = ['00000003.00000016', '00000003.00000400', 'connect', 'vsock.sock'];
    expect(readdirSync(directory).sort()).toEqual(names);
    for (const name of names) expect(statSync(join(directory, name)).mode & 0o777).toBe(0o600);
    // A guest without a driver has nobody to be connected to.
    const client = createConnection(join(directory, '00000003.00000400')).resume();
    await once(client, 'close');
    await still.machine.kill();
    expect(readdirSync(directory)).toEqual([]);
  });

  test('a damaged snapshot is refused', async () => {
    await expect(bench.launch([hang()], { restoreFrom: join(folder, 'none') })).rejects.toThrow(/did not start.*none/);
  });

  test.each([
    ['a missing kernel', join(folder, 'no-kernel'), /no-kernel/],
    ['a kernel that is none', resolve(import.meta.dirname, 'tiny-guest.ts'), /tiny-guest\.ts/],
  ])('%s is named', async (_, kernel, message) => {
    await expect(bench.launch([], { kernel })).rejects.toThrow(message);
  });

  test('a guest that breaks down is told from one that powers off', async () => {
    // mov eax, an address where nothing is; jmp eax: KVM has no instruction to run.
    const { machine } = await bench.launch([print('x'), [0xb8, 0x00, 0x00, 0x00, 0xfd, 0xff, 0xe0]]);
    const exit = await machine.exited;
    expect(exit.reason).toBe('crashed');
    expect(exit.detail).toMatch(/^[A-Z].*\.$/);
  });

  test('takes console input', async () => {
    const { loadAddon } = await import('../../../driver/hypervisor/native/addon.js');
    const { nativeSpec } = await import('../../../driver/hypervisor/native/spec.js');
    const kernel = join(folder, 'echo');
    writeFileSync(kernel, elf(echoUntil('q'), powerOff()));
    const network = { mode: 'user', mac: '02:00:00:00:00:02', hostname: 'e', hostAddress: '127.0.0.1', forwards: [] };
    const boot = { kernel, initrd: '', commandLine: '' };
    const spec = {
      name: 'echo',
      uuid: '00000000-0000-8000-8000-000000000002',
      cpus: 1,
      memoryMiB: 64,
      boot,
      disks: [],
    };
    let text = '';
    let ended: () => void = () => undefined;
    const end = new Promise<void>((resolve) => (ended = resolve));
    const machine = await loadAddon().create(
      nativeSpec({ ...spec, network: { ...network, mode: 'user' } }, ''),
      (event) => {
        if (event.type === 'console') text += event.bytes.toString('latin1');
        if (event.type === 'exited') ended();
      },
    );
    try {
      await machine.start();
      await machine.writeConsole(Buffer.from('hi q'));
      await end;
      expect(text).toBe('hi q');
      expect((await machine.statistics()).exits).toBeGreaterThan(0);
    } finally {
      await machine.close();
    }
    await expect(machine.start()).rejects.toMatchObject({ code: 'state' });
  });
});
