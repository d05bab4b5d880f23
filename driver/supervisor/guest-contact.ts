import { readFile } from 'node:fs/promises';

import { TshyveError } from '../base/index.js';
import { type GuestSession, contactGuest } from '../guest/index.js';
import type { PortForward } from '../hypervisor/index.js';
import type { GuestLogin } from './types.js';

/** Whoever asks has time: a guest may be busy, and networks take some seconds to come back after a sleep. */
const CONTACT_TIMEOUT_MS = 60_000;

/** The way to a machine's guest for its own supervisor. */
export interface GuestWay {
  readonly login: GuestLogin;
  /** In force now; the one called `ssh` leads to the guest's sshd. */
  readonly forwards: () => readonly PortForward[];
  /** Where this process reaches what a forward leads to; undefined: nowhere yet. */
  readonly reach: (forward: PortForward) => PortForward | undefined;
}

/** @throws TshyveError `not-running` as long as there is no way, `timeout` when the guest is not reached by it */
export async function contactOwnGuest(
  { login, forwards, reach }: GuestWay,
  signal: AbortSignal,
): Promise<GuestSession> {
  const forward = forwards().find(({ name }) => name === 'ssh');
  const ssh = forward === undefined ? undefined : reach(forward);
  if (ssh === undefined) throw new TshyveError('not-running', 'The machine has no SSH port yet.');
  const address = {
    host: ssh.hostAddress,
    port: ssh.hostPort,
    username: login.username,
    privateKey: await readFile(login.privateKeyFile, 'utf8'),
    hostKey: login.hostKey,
  };
  return contactGuest(address, { timeoutMs: CONTACT_TIMEOUT_MS, signal });
}
