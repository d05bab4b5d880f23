import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { watchForWake } from '../../../driver/supervisor/wake-watch.js';

const clock = { wall: 1_800_000_000_000, monotonic: 50_000 };
const clocks = { wall: () => clock.wall, monotonic: () => clock.monotonic };
let wakes = 0;
let end: () => void;

beforeEach(() => {
  vi.useFakeTimers();
  wakes = 0;
  end = watchForWake(() => wakes++, clocks);
});
afterEach(() => {
  end();
  vi.useRealTimers();
});

/** Lets the watch look once, the clocks having moved on by so much. */
function look(wallMs: number, monotonicMs: number): void {
  clock.wall += wallMs;
  clock.monotonic += monotonicMs;
  vi.advanceTimersByTime(5_000);
}

test.each([
  ['a quiet host', 5_000, 5_000, 0],
  ['a busy host', 9_000, 9_000, 0],
  ['a clock that is slewed', 5_900, 5_000, 0],
  ['a sleep during which the monotonic clock stood still', 3_605_000, 5_000, 1],
  ['a sleep during which it did not', 3_605_000, 3_605_000, 1],
  ['a clock that was set back', -86_400_000, 5_000, 1],
  ['a clock that was set ahead', 65_000, 5_000, 1],
])('%s', (_what, wallMs, monotonicMs, expected) => {
  look(5_000, 5_000);
  look(wallMs, monotonicMs);
  expect(wakes).toBe(expected);
  // Each jump is reported once.
  look(5_000, 5_000);
  expect(wakes).toBe(expected);
});

test('nothing is reported after the end', () => {
  end();
  look(3_605_000, 5_000);
  expect(wakes).toBe(0);
});
