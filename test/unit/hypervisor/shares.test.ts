import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, describe, expect, test } from 'vitest';

import { type Extras, hypervisorNames, selectHypervisor } from '../../../driver/hypervisor/index.js';
import { qemuArguments } from '../../../driver/hypervisor/qemu/arguments.js';
import { whyNotNested } from '../../../driver/hypervisor/qemu/nested.js';
import { findVirtiofsd, serveShares, whyNoShares } from '../../../driver/hypervisor/virtiofsd.js';
import { Bench, nativeCannotRun } from './bench.js';
import { hang, print } from './tiny-guest.js';

const folder = mkdtempSync(join(tmpdir(), 'tsv-'));
const benches = hypervisorNames.map((name) => new Bench(name));
afterAll(async () => {
  for (const bench of benches) await bench.close();
  rmSync(folder, { recursive: true, force: true });
});
const log = { info: () => undefined, debug: () => undefined };
/** Processes of virtiofsd that somebody has started: each forks once. */
const daemonsOf = (...parents: string[]): string[] => {
  if (parents.length === 0) return [];
  const args = ['-P', parents.join(','), '-f', 'socket-path=share'];
  const found = spawnSync('pgrep', args, { encoding: 'utf8' })
    .stdout.split('\n')
    .filter((pid) => pid !== '');
  return [...found, ...daemonsOf(...found)];
};
/** What has ended but was not waited for yet does not run: not everywhere does process 1 do so at once. */
const runs = (pid: string): boolean => {
  const { stdout } = spawnSync('ps', ['-o', 'stat=', '-p', pid], { encoding: 'utf8' });
  return stdout !== '' && !stdout.startsWith('Z');
};
/** CI runs as root. */
const cannotServe = process.getuid?.() !== 0 && process.env['CI'] !== 'true';

describe.each(hypervisorNames)('a machine on %s', (name) => {
  test.skipIf(cannotServe || (name === 'native' && nativeCannotRun))(
    'is served its folders, and takes the daemons along',
    async () => {
      const bench = benches[hypervisorNames.indexOf(name)] ?? expect.fail();
      const directory = join(folder, `shared-${name}`);
      mkdirSync(directory);
      writeFileSync(join(directory, 'file'), 'kept');
      const shares = [
        { tag: 'share0', directory, readOnly: false },
        { tag: 'share1', directory, readOnly: true },
      ];
      const { machine, console: said } = await bench.launch([print('up'), hang()], {
        change: (spec) => ({ ...spec, shares }),
      });
      await expect.poll(said).toContain('up');
      expect(readdirSync(bench.folder)).toEqual(expect.arrayContaining(['share0.sock', 'share1.sock']));
      // The folder is mounted only where virtiofsd is: whoever deletes the run folder deletes nothing of it.
      expect(readdirSync(join(bench.folder, 'share0'))).toEqual([]);
      const daemons = daemonsOf(String(process.pid));
      expect(daemons).toHaveLength(4);
      await machine.kill();
      await expect.poll(() => readdirSync(bench.folder).filter((file) => file.startsWith('share'))).toEqual([]);
      expect(existsSync(join(directory, 'file'))).toBe(true);
      await expect.poll(() => daemons.filter(runs)).toEqual([]);
    },
  );
});

test('a folder that cannot be served is named, with the words of who refused', async () => {
  const run = join(folder, 'run');
  mkdirSync(run);
  const share = { tag: 'share0', directory: join(folder, 'none'), readOnly: false };
  await expect(serveShares([share], { runDirectory: run, log })).rejects.toThrow(
    /virtiofsd does not serve .*\/none .*: /,
  );
  expect(readdirSync(run)).toEqual([]);
});

test('a host without virtiofsd says what to install', async () => {
  expect(await whyNoShares({ PATH: folder })).toBeUndefined();
  const own = join(folder, 'bin');
  mkdirSync(own);
  writeFileSync(join(own, 'virtiofsd'), '#!/bin/sh\n');
  chmodSync(join(own, 'virtiofsd'), 0o755);
  expect(await findVirtiofsd({ PATH: `relative:${own}` })).toBe(join(own, 'virtiofsd'));
});

test("QEMU's guest memory is shared with virtiofsd, and only then", () => {
  const spec = benches[0]?.spec('/k') ?? expect.fail();
  const sockets = { qmp: '/q', frames: '/f' };
  const shares = [{ tag: 'share0', socket: '/run/a,b.sock' }];
  const args = qemuArguments(spec, 'kvm', sockets, { architecture: 'x86_64', shares }).join(' ');
  expect(args).toContain('q35,vmport=off,hpet=off,memory-backend=memory');
  expect(args).toContain('{"qom-type":"memory-backend-memfd","id":"memory","size":67108864,"share":true}');
  expect(args).toContain('socket,id=share0,path=/run/a,,b.sock');
  expect(args).toContain('"driver":"vhost-user-fs-pci","chardev":"share0","tag":"share0"');
  expect(qemuArguments(spec, 'kvm', sockets, { architecture: 'x86_64' }).join(' ')).not.toContain('memory-backend');
});

describe('what a host lacks', () => {
  const none: Extras = {
    shares: false,
    rosetta: false,
    nestedVirtualization: false,
    bridged: false,
    firmware: false,
    vsock: false,
  };
  test.each(hypervisorNames)(
    'on %s, nothing for an ordinary machine, a sentence for each other thing',
    async (name) => {
      const hypervisor = await selectHypervisor(name);
      expect(await hypervisor.lacks(none)).toEqual([]);
      expect(await hypervisor.lacks({ ...none, rosetta: true, bridged: true })).toEqual([
        "Rosetta (--tshyve-rosetta) is only possible on a Mac, on Apple's hypervisor: leave it out.",
        "A bridged network is only possible on a Mac, on Apple's hypervisor: leave it out.",
      ]);
    },
  );
  test('QEMU has no vsock for its machines', async () => {
    const qemu = await selectHypervisor('qemu');
    expect(await qemu.lacks({ ...none, vsock: true })).toEqual([
      'With QEMU there are no vsock ports (--tshyve-vsock-port): use --tshyve-hypervisor native.',
    ]);
    const native = await selectHypervisor('native');
    expect(await native.lacks({ ...none, vsock: true })).toEqual([]);
  });
  test('the native core hides virtualization from its guests', async () => {
    const native = await selectHypervisor('native');
    expect(await native.lacks({ ...none, nestedVirtualization: true })).toEqual([
      'The native core shows no virtualization to its guests on Linux: use --tshyve-hypervisor qemu.',
    ]);
  });
  test('QEMU asks KVM', async () => {
    const modules = (name: string, value: string) => {
      const root = mkdtempSync(join(folder, 'sys-'));
      mkdirSync(join(root, name, 'parameters'), { recursive: true });
      writeFileSync(join(root, name, 'parameters/nested'), value);
      return root;
    };
    expect(await whyNotNested('x86_64', 'tcg', '/none')).toBeUndefined();
    expect(await whyNotNested('x86_64', 'kvm', modules('kvm_intel', 'Y\n'))).toBeUndefined();
    expect(await whyNotNested('x86_64', 'kvm', modules('kvm_amd', '1\n'))).toBeUndefined();
    expect(await whyNotNested('x86_64', 'kvm', modules('kvm_amd', '0\n'))).toMatch(/modprobe kvm_amd nested=1/);
    expect(await whyNotNested('x86_64', 'hvf')).toMatch(/--tshyve-hypervisor native/);
    expect(await whyNotNested('aarch64', 'kvm')).toMatch(/leave --tshyve-nested out/);
    const arm = qemuArguments(
      { ...(benches[0]?.spec('/k') ?? expect.fail()), nestedVirtualization: true },
      'tcg',
      { qmp: '/q', frames: '/f' },
      { architecture: 'aarch64' },
    );
    expect(arm.join(' ')).toContain('virt,gic-version=max,virtualization=on');
  });
});
