import { describe, expect, test } from 'vitest';

import { type Backend, type Guest, withGuest } from './guest.js';
import { kernels } from './lab.js';

/**
 * Memory that the guest's kernel keeps for itself, in KiB, for a guest of this size: its image, page structures, and
 * 64 MiB of bounce buffers once there is memory above 4 GiB.
 */
const kept = (memoryMiB: number) => 64 * 1024 + memoryMiB * 24 + (memoryMiB > 3072 ? 64 * 1024 : 0);
/** What a kernel says when something is wrong with the machine it runs on. */
const complaint = /\b(BUG|WARNING|Oops|Call Trace|rcu.*stall|soft lockup)\b/;

async function expectReport(guest: Guest, cpus: number, memoryMiB: number): Promise<void> {
  const [, seenCpus, memory] = await guest.waitFor(/tshyve-lab: cpus=(\d+) memory=(\d+) KiB/);
  expect(Number(seenCpus)).toBe(cpus);
  expect(Number(memory)).toBeGreaterThan(memoryMiB * 1024 - kept(memoryMiB));
  expect(Number(memory)).toBeLessThanOrEqual(memoryMiB * 1024);
  expect(await guest.end(), guest.console + guest.said).toBe(0);
  expect(guest.console).toContain('tshyve-lab: done');
  expect(guest.console).not.toMatch(complaint);
}

/** Boots take most of their time on one processor of the two that the lab has, so two run at a time. */
describe.concurrent.each(kernels)("Debian's stock kernel %s on the native core", (kernel) => {
  const every = [512, 3072, 5120].flatMap((memoryMiB) => [1, 2, 4].map((cpus) => ({ cpus, memoryMiB })));
  // The extremes are enough for the newest kernel.
  const sizes = kernel === 'cloud-6.12' ? every.filter((_, index) => index === 0 || index === 8) : every;
  test.each(sizes)('boots with $cpus processors and $memoryMiB MiB', async ({ cpus, memoryMiB }) => {
    await withGuest('core', { kernel, cpus, memoryMiB }, (guest) => expectReport(guest, cpus, memoryMiB));
  });

  test('reaches a shell, which powers off', async () => {
    await withGuest('core', { kernel, words: 'lab.task=shell' }, async (guest) => {
      await guest.waitFor(/lab# /);
      guest.type('echo $((6 * 7)) $(busybox nproc)\n');
      await guest.waitFor(/^42 1\r?$/m);
      guest.type('exit\n');
      expect(await guest.end(), guest.console).toBe(0);
    });
  });

  test('obeys the power button', async () => {
    await withGuest('core', { kernel, words: 'lab.task=button' }, async (guest) => {
      await guest.waitFor(/waiting for the power button, [1-9]/);
      guest.pressPowerButton();
      await guest.waitFor(/tshyve-lab: power button/);
      expect(await guest.end()).toBe(0);
    });
  });

  // tshyve_run's exit codes: 2 the guest asked for a restart, 3 it crashed.
  test.each(['reboot', 'panic'])('restarts by %s', async (task) => {
    await withGuest('core', { kernel, words: `lab.task=${task}` }, async (guest) => {
      expect([2, 3], guest.console).toContain(await guest.end());
    });
  });
});

test.each<Backend>(['native', 'qemu'])("a stock kernel boots on tshyve's %s hypervisor", async (backend) => {
  await withGuest(backend, { kernel: 'cloud-6.1', cpus: 2 }, async (guest) => {
    await expectReport(guest, 2, 512);
    expect(guest.said).not.toContain('slow');
  });
});

test('all memory below and above 4 GiB keeps what is written to it', async () => {
  await withGuest(
    'core',
    { kernel: 'cloud-6.1', cpus: 2, memoryMiB: 5120, words: 'lab.task=memory' },
    async (guest) => {
      const [, touched] = await guest.waitFor(/tshyve-lab: touched=(\d+) MiB/, 300_000);
      expect(Number(touched)).toBeGreaterThan(3500);
      expect(await guest.end()).toBe(0);
    },
  );
});
