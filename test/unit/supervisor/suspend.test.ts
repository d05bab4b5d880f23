import { execFileSync, spawnSync } from 'node:child_process';
import {
  appendFileSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';

import { afterAll, describe, expect, test } from 'vitest';

import { codeOf } from '../../../driver/base/index.js';
import type { ProbeResult, VmSpec } from '../../../driver/hypervisor/index.js';
import { supervisorPlace } from '../../../driver/supervisor/place.js';
import {
  discardSavedState,
  hasSavedState,
  misfits,
  readSavedState,
  useSavedState,
  writeSavedState,
} from '../../../driver/supervisor/saved-state.js';
import { Supervisor } from '../../../driver/supervisor/supervisor.js';
import { Bench, nativeCannotRun } from '../hypervisor/bench.js';
import { alphabet, elf } from '../hypervisor/tiny-guest.js';

const id = '0123456789abcdef';
/** CI runs as root. */
const mayMount = process.getuid?.() === 0 || process.env['CI'] === 'true';

/** A machine of a tiny guest with a disk, supervised in this process. */
class Machine {
  readonly bench: Bench;
  readonly spec: VmSpec;
  readonly disk: string;
  readonly folder: string;
  readonly #name: 'native' | 'qemu';
  readonly #started: { supervisor: Supervisor; gone: Promise<unknown> }[] = [];
  #mounted = false;

  /** @param room size of the file system that the machine's folder is, if it is to be one of its own */
  constructor(name: 'native' | 'qemu', room?: string) {
    this.#name = name;
    this.bench = new Bench(name);
    this.folder = join(this.bench.folder, 'machine');
    mkdirSync(this.folder);
    mkdirSync(join(this.bench.folder, id));
    if (room !== undefined) {
      execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${room}`, 'tshyve-test', this.folder]);
      this.#mounted = true;
    }
    this.disk = join(this.folder, 'disk.img');
    const kernel = join(this.folder, 'kernel');
    writeFileSync(kernel, elf(alphabet(2_000)));
    writeFileSync(this.disk, '');
    truncateSync(this.disk, 1 << 20);
    this.spec = { ...this.bench.spec(kernel), disks: [{ id: 'data', path: this.disk, readOnly: false }] };
  }

  get place() {
    return supervisorPlace({ machineDirectory: this.folder, id }, this.bench.folder);
  }

  async start(resume = false): Promise<Supervisor> {
    const request = { machineDirectory: this.folder, id, hypervisor: this.#name, spec: this.spec, resume };
    const supervisor = new Supervisor(request, this.place, () => undefined);
    await supervisor.launch();
    this.#started.push({ supervisor, gone: gone(supervisor) });
    return supervisor;
  }

  console(): string {
    return readFileSync(this.place.consoleLog, 'latin1');
  }

  savedFolders(): string[] {
    return readdirSync(this.folder).filter((name) => name.startsWith('saved'));
  }

  /** Leaves no room on the file system of the machine's folder. */
  fill(): void {
    try {
      for (;;) appendFileSync(join(this.folder, 'filler'), Buffer.alloc(4096));
    } catch (error) {
      if (codeOf(error) !== 'ENOSPC') throw error;
    }
  }

  resize(room: string): void {
    execFileSync('mount', ['-o', `remount,size=${room}`, this.folder]);
  }

  async close(): Promise<void> {
    for (const { supervisor, gone } of this.#started) {
      // Most are gone already.
      await supervisor.kill().catch(() => undefined);
      await gone;
    }
    if (this.#mounted) await unmount(this.folder);
    await this.bench.close();
  }
}

/** The kernel takes a moment to let go of what an io_uring had open. */
async function unmount(folder: string): Promise<void> {
  await expect.poll(() => spawnSync('umount', [folder]).status).toBe(0);
}

function gone(supervisor: Supervisor): Promise<unknown> {
  return new Promise((resolve) => supervisor.once('gone', resolve));
}

describe.each([
  { name: 'native', cannotRun: nativeCannotRun },
  { name: 'qemu', cannotRun: false },
] as const)('a machine of $name', ({ name, cannotRun }) => {
  describe.skipIf(cannotRun)('is suspended', () => {
    const machine = cannotRun ? undefined : new Machine(name);
    const it = () => {
      if (machine === undefined) throw new Error('no machine');
      return machine;
    };
    afterAll(() => machine?.close());

    test('a save ends it, a resume goes on where it was and uses the state up', async () => {
      const first = await it().start();
      await expect.poll(() => it().console()).toContain('abc');
      const ended = gone(first);
      await first.suspend();
      expect(await ended).toMatchObject({ reason: 'killed', detail: 'The machine was saved and ended.' });
      await expect(first.suspend()).rejects.toMatchObject({ kind: 'not-running' });
      expect(it().savedFolders()).toEqual(['saved']);
      expect(await readSavedState(it().folder)).toMatchObject({ hypervisor: name, spec: { memoryMiB: 64 } });
      const before = it().console();

      const second = await it().start(true);
      expect(it().savedFolders()).toEqual([]);
      expect(second.status().events.map((event) => event.name)).toEqual(['launched', 'resumed']);
      await expect.poll(() => it().console().length).toBeGreaterThan(before.length + 3);
      await second.kill();
      const all = it().console();
      expect('abcdefghijklmnopqrstuvwxyz'.repeat(Math.ceil(all.length / 26))).toContain(all);
    });

    test.skipIf(!mayMount)('a full disk is named, and the machine goes on', async () => {
      const full = new Machine(name, '2m');
      try {
        const supervisor = await full.start();
        full.fill();
        await expect(supervisor.suspend()).rejects.toMatchObject({ kind: 'no-space' });
        expect(supervisor.status().state).toBe('running');
        expect(full.savedFolders()).toEqual([]);
        full.resize('200m');
        const before = full.console().length;
        await expect.poll(() => full.console().length).toBeGreaterThan(before + 3);
        await supervisor.suspend();
        expect(await hasSavedState(full.folder)).toBe(true);
      } finally {
        await full.close();
      }
    });

    test('a state that cannot be loaded is kept, and told', async () => {
      const first = await it().start();
      await first.suspend();
      const files = join(it().folder, 'saved');
      for (const file of readdirSync(files)) {
        if (file !== 'saved.json') truncateSync(join(files, file), 100);
      }
      await expect(it().start(true)).rejects.toThrow(/./);
      expect(it().savedFolders()).toEqual(['saved']);
      // A boot from scratch is one that the user has chosen; what was saved is worth nothing then.
      await (await it().start()).kill();
      expect(it().savedFolders()).toEqual([]);
    });
  });
});

describe('a saved state', () => {
  const bench = new Bench('qemu');
  const disk = join(bench.folder, 'disk.img');
  writeFileSync(disk, 'data');
  const spec: VmSpec = { ...bench.spec('/kernel'), disks: [{ id: 'data', path: disk, readOnly: false }] };
  const probe: ProbeResult = {
    hypervisor: 'qemu',
    usable: true,
    accelerator: 'tcg',
    stateVersion: 'QEMU 7.2.0',
    notes: [],
  };
  const vm = { accelerator: 'tcg', save: () => Promise.resolve() };
  const save = () =>
    writeSavedState(bench.folder, vm, { hypervisor: 'qemu', stateVersion: 'QEMU 7.2.0', spec, forwards: [] });
  const load = async () => {
    const saved = await readSavedState(bench.folder);
    if (saved === undefined) throw new Error('nothing saved');
    return saved;
  };
  afterAll(() => bench.close());

  test('fits what it was made with', async () => {
    await save();
    expect(await misfits(await load(), spec, probe)).toEqual([]);
  });

  test.each<[string, VmSpec, ProbeResult, RegExp]>([
    ['CPUs', { ...spec, cpus: 2 }, probe, /^The number of CPUs was 1 then, and 2 now\.$/],
    ['memory', { ...spec, memoryMiB: 128 }, probe, /^Its memory in MB was 64 then, and 128 now\.$/],
    ['MAC address', { ...spec, network: { ...spec.network, mac: '02:00:00:00:00:09' } }, probe, /MAC address/],
    ['disks', { ...spec, disks: [] }, probe, /^Its disks were/],
    ['version', spec, { ...probe, stateVersion: 'QEMU 9.0.0' }, /^qemu was QEMU 7\.2\.0 then, and QEMU 9\.0\.0 now\.$/],
    ['accelerator', spec, { ...probe, accelerator: 'kvm' }, /accelerator was tcg then, and kvm now/],
    ['no hypervisor', spec, { hypervisor: 'qemu', usable: false, notes: ['Gone.'] }, /qemu cannot be used: Gone\./],
  ])('tells other %s', async (_, now, host, message) => {
    const found = await misfits(await load(), now, host);
    expect(found).toHaveLength(1);
    expect(found[0]).toMatch(message);
  });

  test('tells a disk that was changed or is gone', async () => {
    const saved = await load();
    utimesSync(disk, 1, 1);
    expect(await misfits(saved, spec, probe)).toEqual([`The disk ${disk} has been changed since.`]);
    rmSync(disk);
    expect(await misfits(saved, spec, probe)).toEqual([`The disk ${disk} has been changed since.`]);
  });

  test.each(['', '{', '{"format":2}', 'null'])('is refused when its record is %j', async (text) => {
    const record = join(bench.folder, 'saved', 'saved.json');
    const before = readFileSync(record);
    writeFileSync(record, text);
    await expect(readSavedState(bench.folder)).rejects.toMatchObject({ kind: 'invalid-config' });
    writeFileSync(record, before);
  });

  test('is none once it is used or given up', async () => {
    await useSavedState(bench.folder);
    expect(await readSavedState(bench.folder)).toBeUndefined();
    await save();
    await discardSavedState(bench.folder);
    await discardSavedState(bench.folder);
    expect(await hasSavedState(bench.folder)).toBe(false);
    expect(readdirSync(bench.folder)).toEqual([]);
  });
});
