import { describe, expect, test } from 'vitest';

import { withGuest } from './guest.js';
import { kernels, short } from './lab.js';
import { expectReport } from './report.js';

describe.each(kernels)("Debian's stock kernel %s on the native core", (kernel) => {
  const every = [512, 3072, 5120].flatMap((memoryMiB) => [1, 2, 4].map((cpus) => ({ cpus, memoryMiB })));
  // The extremes are enough for the newest kernel.
  const sizes = kernel === 'cloud-6.12' ? every.filter((_, index) => index === 0 || index === 8) : every;
  test.each(sizes)('boots with $cpus processors and $memoryMiB MiB', async ({ cpus, memoryMiB }) => {
    await withGuest('core', { kernel, cpus, memoryMiB }, (guest) => expectReport(guest, cpus, memoryMiB));
  });

  if (short && kernel !== 'cloud-6.1') return;

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

  // tshyve_run's exit code 2: the guest wants to restart.
  test.each(['reboot', 'panic'])('restarts by %s', async (task) => {
    await withGuest('core', { kernel, words: `lab.task=${task}` }, async (guest) => {
      expect(await guest.end(), guest.console).toBe(2);
    });
  });
});
