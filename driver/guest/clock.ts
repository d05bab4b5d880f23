import type { GuestSession } from './ssh-session.js';

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
export async function setGuestClock(session: GuestSession): Promise<number> {
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
