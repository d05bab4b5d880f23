import { type Log, messageOf } from '../base/index.js';
import type { GuestSession } from './ssh-session.js';

/** The guest's first milestone; its argument is the guest's clock in seconds since the epoch. See iso/README.md. */
const BOOT_EVENT = 'init';

/** Seconds a guest may be off: less is in the noise of a loaded host. */
const TOLERANCE_SECONDS = 2;
const TIMEOUT_MS = 20_000;

/**
 * Sets the guest's clock to this host's when they differ. A guest reads the time once, at boot: it is behind after a
 * pause or a sleep of the host, and off after the host's clock was set. Without a time server nothing else mends that,
 * and TLS certificates fail on both sides.
 * @returns by how many seconds the guest was ahead (negative: behind), 0 when nothing had to be done
 * @throws TshyveError `guest`, `timeout` when the guest refuses
 */
async function setGuestClock(session: GuestSession): Promise<number> {
  const now = String(Math.round(Date.now() / 1000));
  const tolerance = String(TOLERANCE_SECONDS);
  const script = [
    `skew=$(($(date -u +%s) - ${now}))`,
    `if [ $skew -gt ${tolerance} ] || [ $skew -lt -${tolerance} ]; then`,
    `sudo -n date -u -s @${now} >/dev/null || exit 1`,
    'else skew=0; fi',
    'echo $skew',
  ].join('\n');
  const said = await session.check(script, { timeoutMs: TIMEOUT_MS });
  return /^-?\d+$/.test(said.trim()) ? Number(said.trim()) : 0;
}

/** Sets the guest's clock and says so. One that cannot be set is no reason to keep a running machine from its user. */
export async function mendGuestClock(session: GuestSession, log: Log): Promise<void> {
  try {
    const skew = await setGuestClock(session);
    if (skew !== 0) {
      log.info(`The guest's clock was ${String(Math.abs(skew))} s ${skew < 0 ? 'behind' : 'ahead'} and has been set`);
    }
  } catch (error) {
    log.info(`The guest's clock was not checked: ${messageOf(error)}`);
  }
}

/**
 * Whether a guest that has just booted said the right time as it did. Costs nothing, where asking over SSH costs a
 * process in a guest that is busy with its boot.
 * @param boot.startedAtMs when it was launched, in this host's milliseconds since the epoch
 * @param boot.events what it has reported since, each `atMs` milliseconds after the launch
 */
export function bootedOnTime(boot: {
  readonly startedAtMs: number;
  readonly events: readonly { readonly name: string; readonly argument: string; readonly atMs: number }[];
}): boolean {
  const event = boot.events.find(({ name }) => name === BOOT_EVENT);
  if (event === undefined || !/^\d+$/.test(event.argument)) return false;
  const skew = Number(event.argument) - (boot.startedAtMs + event.atMs) / 1000;
  return Math.abs(skew) <= TOLERANCE_SECONDS;
}
