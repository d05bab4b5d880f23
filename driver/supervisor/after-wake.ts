import type { Log } from '../base/index.js';
import { mendGuestClock } from '../guest/index.js';
import { type GuestWay, contactOwnGuest } from './guest-contact.js';

/**
 * What a guest needs when its host has slept: proof that it is still reached, and the right time.
 * @throws TshyveError `timeout` when the guest is not reached any more
 */
export async function mendAfterWake(way: GuestWay, log: Log, signal: AbortSignal): Promise<void> {
  const session = await contactOwnGuest(way, signal);
  try {
    log.info('The guest is reached');
    await mendGuestClock(session, log);
  } finally {
    session.close();
  }
}
