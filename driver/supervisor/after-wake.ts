import { readFile } from 'node:fs/promises';

import { type Log, TshyveError, messageOf } from '../base/index.js';
import { contactGuest, setGuestClock } from '../guest/index.js';
import type { PortForward } from '../hypervisor/index.js';
import type { GuestLogin } from './types.js';

/** Networks take some seconds to come back after a sleep. */
const CONTACT_TIMEOUT_MS = 60_000;

/**
 * What a guest needs when its host has slept: proof that it is still reached where clients are told, and the right time.
 * @param forwards in force at that moment; the one called `ssh` leads to the guest's sshd
 * @throws TshyveError `timeout` when the guest is not reached any more
 */
export async function mendAfterWake(
  login: GuestLogin,
  forwards: readonly PortForward[],
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  const ssh = forwards.find(({ name }) => name === 'ssh');
  if (ssh === undefined) throw new TshyveError('not-running', 'The machine has no SSH port yet.');
  const address = {
    host: ssh.hostAddress,
    port: ssh.hostPort,
    username: login.username,
    privateKey: await readFile(login.privateKeyFile, 'utf8'),
    hostKey: login.hostKey,
  };
  const session = await contactGuest(address, { timeoutMs: CONTACT_TIMEOUT_MS, signal });
  try {
    const skew = await setGuestClock(session);
    if (skew === 0) log.info('The guest is reached and its clock is right');
    else
      log.info(`The guest's clock was ${String(Math.abs(skew))} s ${skew < 0 ? 'behind' : 'ahead'} and has been set`);
  } catch (error) {
    log.info(`The guest's clock was not checked: ${messageOf(error)}`);
  } finally {
    session.close();
  }
}
