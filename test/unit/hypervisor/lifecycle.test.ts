import { mkdirSync } from 'node:fs';
import { join } from 'node:path';

import { afterAll, describe, expect, test } from 'vitest';

import { Bench, nativeCannotRun } from './bench.js';
import { alphabet } from './tiny-guest.js';

/** What every backend does alike, with a real machine each. */
describe.each([
  { name: 'native', cannotRun: nativeCannotRun },
  { name: 'qemu', cannotRun: false },
] as const)('$name', ({ name, cannotRun }) => {
  describe.skipIf(cannotRun)('a machine', () => {
    const bench = new Bench(name);
    afterAll(() => bench.close());

    test('pauses, resumes, and ends at once when killed', async () => {
      const { machine, console } = await bench.launch([alphabet(2_000)]);
      await expect.poll(console, { timeout: 15_000 }).toContain('abc');
      await machine.pause();
      const before = console();
      await new Promise((wake) => setTimeout(wake, 100));
      expect(console()).toBe(before);
      await machine.resume();
      await expect.poll(() => console().length, { timeout: 15_000 }).toBeGreaterThan(before.length);
      await machine.kill();
      expect((await machine.exited).reason).toBe('killed');
    });

    test('is saved, and goes on in another machine where it was', async () => {
      const first = await bench.launch([alphabet(2_000)]);
      await expect.poll(first.console, { timeout: 15_000 }).toContain('abc');
      await first.machine.pause();
      const snapshot = join(bench.folder, 'snapshot');
      mkdirSync(snapshot);
      await first.machine.save(snapshot);
      await first.machine.kill();
      const second = await bench.launch([], { restoreFrom: snapshot, kernel: first.kernel });
      await expect.poll(() => second.console().length, { timeout: 15_000 }).toBeGreaterThan(3);
      await second.machine.kill();
      expect(second.beforeStart).toEqual(['']);
      const letters = 'abcdefghijklmnopqrstuvwxyz';
      const all = first.console() + second.console();
      expect(letters.repeat(Math.ceil(all.length / 26))).toContain(all);
    });
  });
});
