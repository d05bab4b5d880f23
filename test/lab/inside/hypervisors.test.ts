import { expect, test } from 'vitest';

import { type Backend, withGuest } from './guest.js';
import { short } from './lab.js';
import { expectReport } from './report.js';

test.each<Backend>(['native', 'qemu'])("a stock kernel boots on tshyve's %s hypervisor", async (backend) => {
  await withGuest(backend, { kernel: 'cloud-6.1', cpus: 2 }, async (guest) => {
    await expectReport(guest, 2, 512);
    expect(guest.said).not.toContain('slow');
  });
});

if (!short) {
  test('all memory below and above 4 GiB keeps what is written to it', async () => {
    const options = { kernel: 'cloud-6.1', cpus: 2, memoryMiB: 5120, words: 'lab.task=memory' };
    await withGuest('core', options, async (guest) => {
      const [, touched] = await guest.waitFor(/tshyve-lab: touched=(\d+) MiB/);
      expect(Number(touched)).toBeGreaterThan(3500);
      expect(await guest.end()).toBe(0);
    });
  });
}
