import { expect, test } from 'vitest';

import { bootedOnTime } from '../../../driver/guest/index.js';

const LAUNCHED_MS = 1_800_000_000_250;

/** A guest that said `clock` in its first milestone, 3.4 s after the launch. */
function boot(clock: string) {
  const launched = { name: 'launched', argument: 'tcg', atMs: 0 };
  return { startedAtMs: LAUNCHED_MS, events: [launched, { name: 'init', argument: clock, atMs: 3_400 }] };
}

test.each(['1800000002', '1800000003', '1800000005'])('a guest that booted at %s is on time', (clock) => {
  expect(bootedOnTime(boot(clock))).toBe(true);
});

test.each([
  ['behind', '1800000001'],
  ['ahead', '1800000006'],
  ['in another time zone', '1800003603'],
  ['without a clock, as older images are', ''],
  ['no number', '0x6b49d203'],
  ['absurd', '9'.repeat(60)],
])('a guest that is %s is not', (_what, clock) => {
  expect(bootedOnTime(boot(clock))).toBe(false);
});

test('a guest that was resumed has not booted', () => {
  const events = [{ name: 'resumed', argument: '', atMs: 10 }];
  expect(bootedOnTime({ startedAtMs: LAUNCHED_MS, events })).toBe(false);
});
