import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, describe, expect, test } from 'vitest';

import { type Accelerator, type Architecture, qemuArguments } from '../../../driver/hypervisor/qemu/arguments.js';
import { findQemu } from '../../../driver/hypervisor/qemu/binary.js';
import { probeGuests } from '../../../driver/hypervisor/qemu/kvm-probe.js';
import { Bench } from './bench.js';

const bench = new Bench('qemu');
afterAll(() => bench.close());
const folder = mkdtempSync(join(tmpdir(), 'tsq-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** The word after an option. */
function valueOf(args: readonly string[], option: string): string | undefined {
  return args[args.indexOf(option) + 1];
}

describe("QEMU's command line", () => {
  const cases: readonly [Architecture, Accelerator, string, string, RegExp][] = [
    ['x86_64', 'kvm', 'q35,vmport=off,hpet=off', 'host', /^kvm$/],
    ['x86_64', 'tcg', 'q35,vmport=off,hpet=off', 'max', /^tcg,thread=multi/],
    ['aarch64', 'kvm', 'virt,gic-version=max', 'host', /^kvm$/],
    ['aarch64', 'hvf', 'virt,gic-version=max', 'host', /^hvf$/],
    ['aarch64', 'tcg', 'virt,gic-version=max', 'cortex-a72', /^tcg,thread=multi/],
  ];
  test.each(cases)('%s with %s', (architecture, accelerator, machine, cpu, accel) => {
    const args = qemuArguments(bench.spec('/k'), accelerator, { qmp: '/q', frames: '/f' }, { architecture });
    expect(valueOf(args, '-machine')).toBe(machine);
    expect(valueOf(args, '-cpu')).toBe(cpu);
    expect(valueOf(args, '-accel')).toMatch(accel);
    expect(args.join(' ')).toContain('"mac":"02:00:00:00:00:01"');
  });

  test('another hardware address goes before that of the spec', () => {
    const guest = { architecture: 'aarch64', mac: '02:00:00:00:00:99' } as const;
    const args = qemuArguments(bench.spec('/k'), 'tcg', { qmp: '/q', frames: '/f' }, guest);
    expect(args.join(' ')).toContain('"mac":"02:00:00:00:00:99"');
    expect(args.join(' ')).not.toContain('02:00:00:00:00:01');
  });
});

// The guest that tells a fast KVM from a slow one, under TCG: it must end, and end its machine the way the probe expects.
test.each([
  ['x86_64', 'max'],
  ['aarch64', 'cortex-a72'],
] as const)(
  'the KVM probe of %s runs to its end',
  async (architecture, cpu) => {
    const { payload, exitCode, machine } = probeGuests[architecture];
    const qemu = await findQemu(process.env, architecture);
    expect(qemu, `qemu-system-${architecture} is not installed`).toBeDefined();
    const run = (bytes: Buffer, timeout: number) => {
      const firmware = join(folder, `${architecture}.bin`);
      writeFileSync(firmware, bytes);
      const args = ['-nodefaults', '-display', 'none', '-m', '16', '-bios', firmware, ...machine];
      return spawnSync(qemu?.path ?? '', [...args, '-accel', 'tcg', '-cpu', cpu], { timeout, killSignal: 'SIGKILL' });
    };
    const ended = run(payload(), 60_000);
    expect(ended.status, String(ended.error ?? ended.stderr)).toBe(exitCode);
    // A guest that does nothing does not pass for one that ran.
    expect(run(Buffer.alloc(payload().length), 1_500).status).not.toBe(exitCode);
  },
  90_000,
);
