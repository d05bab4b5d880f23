/** A sleep that is noticed this late is still noticed before a user has found the window of the terminal. */
const INTERVAL_MS = 5_000;
/** What a clock that is slewed, or a host that is busy, makes of an interval. */
const TOLERANCE_MS = 2_000;
const LATE_MS = 10_000;

export interface Clocks {
  /** Milliseconds since the epoch */
  readonly wall: () => number;
  /** Milliseconds that nobody sets. It stands still while the host sleeps, or does not, depending on the system. */
  readonly monotonic: () => number;
}

/**
 * Notices that the host has slept, or that its clock was set: either clock moved on by other than what the time between
 * two looks was to be. A host that was merely busy may be taken for one that slept, so what follows must be harmless.
 * @returns ends the watch
 */
export function watchForWake(
  onWake: () => void,
  clocks: Clocks = { wall: () => Date.now(), monotonic: () => performance.now() },
): () => void {
  let wall = clocks.wall();
  let monotonic = clocks.monotonic();
  const timer = setInterval(() => {
    const passed = clocks.monotonic() - monotonic;
    const jump = clocks.wall() - wall - passed;
    wall = clocks.wall();
    monotonic = clocks.monotonic();
    if (Math.abs(jump) > TOLERANCE_MS || passed > INTERVAL_MS + LATE_MS) onWake();
  }, INTERVAL_MS);
  timer.unref();
  return () => {
    clearInterval(timer);
  };
}
