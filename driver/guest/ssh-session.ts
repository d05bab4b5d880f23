import { connect } from 'node:net';
import type { Duplex } from 'node:stream';

import type { Client } from 'ssh2';

import { TshyveError, messageOf, sleep } from '../base/index.js';

/** A first attempt may meet a port whose guest does not listen yet, so it is short. */
const ATTEMPT_TIMEOUT_MS = 3_000;
/** A guest on a busy host may need long for a handshake: each attempt that runs out doubles the time of the next. */
const LONGEST_ATTEMPT_MS = 30_000;
/** User data may reach the guest's account a moment after sshd is up. */
const AUTHENTICATION_GRACE_MS = 10_000;
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 250;
const KEEPALIVE_INTERVAL_MS = 15_000;
const MAX_OUTPUT_BYTES = 16 << 20;
const MAX_LINE = 4096;

export interface GuestAddress {
  readonly host: string;
  readonly port: number;
  readonly username: string;
  readonly privateKey: string;
  /** The guest's host key of an earlier contact, base64 of its SSH wire form; undefined accepts (and reports) any. */
  readonly hostKey: string | undefined;
}

export interface CommandResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** An open SSH connection to a guest. */
export class GuestSession {
  /** The host key the guest showed, base64 of its SSH wire form. */
  readonly hostKey: string;
  readonly #client: Client;

  #open = true;

  constructor(client: Client, hostKey: string) {
    this.#client = client;
    this.hostKey = hostKey;
    client.once('close', () => {
      this.#open = false;
    });
  }

  get isOpen(): boolean {
    return this.#open;
  }

  /** Connects to a unix socket of the guest. @throws TshyveError `guest` when it, or sshd, refuses */
  openSocket(path: string): Promise<Duplex> {
    return new Promise((resolve, reject) => {
      const onClose = () => {
        reject(new TshyveError('guest', `The SSH connection broke before ${path} was reached.`));
      };
      this.#client.once('close', onClose);
      this.#client.openssh_forwardOutStreamLocal(path, (error, channel) => {
        this.#client.off('close', onClose);
        if (error === undefined) resolve(channel);
        else reject(new TshyveError('guest', `The guest refused ${path}: ${error.message}.`, { cause: error }));
      });
    });
  }

  /**
   * Runs a shell command that goes on, and tells each line it prints (cut at 4096 characters). Its standard input ends
   * with the signal.
   * @returns when it has ended, or the session has
   */
  lines(command: string, signal: AbortSignal, onLine: (line: string) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#client.once('close', resolve);
      this.#client.exec(command, (error, channel) => {
        if (error !== undefined) {
          reject(
            new TshyveError('guest', `The guest refused "${brief(command)}": ${error.message}.`, { cause: error }),
          );
          return;
        }
        const end = () => channel.end();
        if (signal.aborted) end();
        signal.addEventListener('abort', end, { once: true });
        let rest = '';
        channel.on('data', (chunk: Buffer) => {
          const parts = (rest + chunk.toString('utf8')).split('\n');
          rest = (parts.pop() ?? '').slice(-MAX_LINE);
          for (const part of parts) onLine(part.slice(0, MAX_LINE));
        });
        channel.stderr.resume();
        channel.on('close', () => {
          signal.removeEventListener('abort', end);
          this.#client.off('close', resolve);
          resolve();
        });
      });
    });
  }

  /** Runs a shell command. A non-zero exit is a result. @throws TshyveError `guest` or `timeout` when the link breaks */
  execute(command: string, options: { input?: string; timeoutMs?: number } = {}): Promise<CommandResult> {
    return new Promise((resolve, reject) => {
      const timeoutMs = options.timeoutMs ?? 60_000;
      const timer = setTimeout(() => {
        reject(
          new TshyveError('timeout', `The guest did not finish "${brief(command)}" within ${String(timeoutMs)} ms.`),
        );
        this.close();
      }, timeoutMs);
      const onClose = () => {
        clearTimeout(timer);
        reject(new TshyveError('guest', `The SSH connection broke during "${brief(command)}".`));
      };
      this.#client.once('close', onClose);
      this.#client.exec(command, (error, channel) => {
        if (error !== undefined) {
          clearTimeout(timer);
          reject(
            new TshyveError('guest', `The guest refused "${brief(command)}": ${error.message}.`, { cause: error }),
          );
          return;
        }
        const output = { stdout: '', stderr: '' };
        const collect = (name: 'stdout' | 'stderr') => (chunk: Buffer) => {
          if (output[name].length < MAX_OUTPUT_BYTES) output[name] += chunk.toString('utf8');
        };
        channel.on('data', collect('stdout'));
        channel.stderr.on('data', collect('stderr'));
        let exit: number | null = null;
        channel.on('exit', (code: number | null) => {
          exit = code;
        });
        channel.on('close', () => {
          clearTimeout(timer);
          this.#client.off('close', onClose);
          resolve({ code: exit, ...output });
        });
        channel.end(options.input);
      });
    });
  }

  /** Runs a command that must succeed. @throws TshyveError `guest` with the command's last words */
  async check(command: string, options: { input?: string; timeoutMs?: number } = {}): Promise<string> {
    const result = await this.execute(command, options);
    if (result.code !== 0) {
      const said = `${result.stdout}\n${result.stderr}`.trim().split('\n').slice(-3).join(' ');
      throw new TshyveError(
        'guest',
        `"${brief(command)}" failed in the guest (exit code ${String(result.code)}): ${said}`,
      );
    }
    return result.stdout;
  }

  close(): void {
    this.#client.end();
  }
}

/**
 * Reaches a guest that is still booting: retries until sshd lets us in.
 * @param options.guest what the guest says of itself: ends the current pause, or the current attempt when it began before
 *   the guest's network was up (a port forwarder accepts before the guest does, and tries the guest again ever less often)
 * @throws TshyveError `timeout`, `cancelled`; `guest` when it refuses the key for good or shows another host key
 */
export async function contactGuest(
  address: GuestAddress,
  options: ContactOptions & { timeoutMs: number },
): Promise<GuestSession> {
  const deadline = performance.now() + options.timeoutMs;
  let firstRefusal: number | undefined;
  let pause = FIRST_PAUSE_MS;
  let attemptMs = ATTEMPT_TIMEOUT_MS;
  let heard = hintsOf(options).length;
  for (;;) {
    requireWanted(options);
    const begun = performance.now();
    const outcome = await attempt(address, attemptMs, options);
    if ('session' in outcome) return outcome.session;
    if (outcome.final !== undefined) throw outcome.final;
    requireWanted(options);
    const now = performance.now();
    if (now - begun >= attemptMs) attemptMs = Math.min(attemptMs * 2, LONGEST_ATTEMPT_MS);
    if (outcome.refused) {
      firstRefusal ??= now;
      if (now - firstRefusal > AUTHENTICATION_GRACE_MS) {
        throw new TshyveError(
          'guest',
          `The guest at ${address.host}:${String(address.port)} does not accept the machine's key for user "${address.username}": ${outcome.reason}. Check --tshyve-ssh-user and the key file.`,
        );
      }
    } else firstRefusal = undefined;
    if (now >= deadline) {
      throw new TshyveError(
        'timeout',
        `The guest does not answer over SSH at ${address.host}:${String(address.port)} (${outcome.reason}).`,
      );
    }
    const awaited = hintsOf(options).length;
    if (awaited === heard) await rest(pause, options);
    heard = awaited;
    // With its network up, a guest without sshd refuses at once, and sshd is not far.
    const soon = options.guest?.networkUp.aborted === true && !options.guest.sshUp.aborted;
    pause = soon ? FIRST_PAUSE_MS : Math.min(pause * 1.5, LONGEST_PAUSE_MS);
  }
}

/** What a booting guest says of itself; each fires once. */
export interface ContactHints {
  readonly networkUp: AbortSignal;
  readonly sshUp: AbortSignal;
}

interface ContactOptions {
  readonly signal: AbortSignal;
  readonly guest?: ContactHints;
}

/** @throws TshyveError `cancelled` */
function requireWanted({ signal }: ContactOptions): void {
  if (signal.aborted) throw new TshyveError('cancelled', 'Waiting for SSH was cancelled.');
}

/** What the guest has not said yet. */
function hintsOf({ guest }: ContactOptions): AbortSignal[] {
  return guest === undefined ? [] : [guest.networkUp, guest.sshUp].filter((hint) => !hint.aborted);
}

/** Sleeps, but wakes up when the guest says something. */
async function rest(ms: number, options: ContactOptions): Promise<void> {
  await sleep(ms, AbortSignal.any([options.signal, ...hintsOf(options)])).catch(() => undefined);
}

type Outcome =
  | { readonly session: GuestSession }
  | { readonly reason: string; readonly refused: boolean; readonly final?: TshyveError };

async function attempt(address: GuestAddress, timeoutMs: number, options: ContactOptions): Promise<Outcome> {
  const { signal } = options;
  // Once its network is up the guest answers, yes or no: such an attempt is worth waiting for.
  const hints = options.guest?.networkUp.aborted === true ? [] : hintsOf(options);
  const { Client } = (await import('ssh2')).default;
  return new Promise((resolve) => {
    const client = new Client();
    let hostKey = '';
    let reason = 'connection closed';
    let refused = false;
    let final: TshyveError | undefined;
    // Our own socket: ssh2 does not set TCP_NODELAY, which costs 40 ms and more per connection.
    const socket = connect({ host: address.host, port: address.port, noDelay: true });
    const onAbort = () => {
      client.destroy();
      socket.destroy();
    };
    const onHint = () => {
      if (socket.bytesRead === 0) onAbort();
    };
    signal.addEventListener('abort', onAbort, { once: true });
    for (const hint of hints) hint.addEventListener('abort', onHint, { once: true });
    const settle = (outcome: Outcome) => {
      signal.removeEventListener('abort', onAbort);
      for (const hint of hints) hint.removeEventListener('abort', onHint);
      resolve(outcome);
    };
    client.on('ready', () => {
      settle({ session: new GuestSession(client, hostKey) });
    });
    // Errors may come twice, or late; the listener stays for the client's whole life.
    client.on('error', (error) => {
      reason = messageOf(error);
      refused ||= error.level === 'client-authentication';
    });
    // Some failures (a banner, then a reset) end without any error.
    client.on('close', () => {
      settle({ reason, refused, ...(final === undefined ? {} : { final }) });
    });
    socket.on('error', (error) => {
      reason = error.message;
    });
    socket.on('close', () => {
      settle({ reason, refused, ...(final === undefined ? {} : { final }) });
    });
    client.connect({
      sock: socket,
      username: address.username,
      privateKey: address.privateKey,
      // Without asking first what else the guest would take: that is a round trip.
      authHandler: ['publickey'],
      readyTimeout: timeoutMs,
      keepaliveInterval: KEEPALIVE_INTERVAL_MS,
      hostVerifier: (key: Buffer) => {
        hostKey = key.toString('base64');
        if (address.hostKey === undefined || address.hostKey === hostKey) return true;
        final = new TshyveError(
          'guest',
          `The SSH host key at ${address.host}:${String(address.port)} is not the one this machine has shown before. Somebody else may be listening there; if you replaced the machine's disk, remove "hostKey" from its tshyve.json.`,
        );
        return false;
      },
    });
  });
}

function brief(command: string): string {
  const line = command.split('\n', 1)[0] ?? '';
  return line.length > 60 ? `${line.slice(0, 57)}...` : line;
}
