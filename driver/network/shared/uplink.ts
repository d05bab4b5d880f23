import { type ChildProcess, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';

import { type Log, TshyveError, codeOf, messageOf, sleep, within } from '../../base/index.js';
import { commandEnvironment } from './host.js';

const START_TIMEOUT_MS = 10_000;
const FIRST_RETRY_MS = 100;
const LAST_RETRY_MS = 5_000;
/** What slirp4netns can take at most; it answers for the world itself, so nothing has to fit a wire. */
const MTU = 65_520;
const INTERFACE = 'tap0';

/** slirp4netns(1): the world as the namespace sees it. */
export const uplinkAddresses = {
  /** Leads to the host's own loopback. */
  host: '10.0.2.2',
  /** Asks whom the host asks now. */
  resolver: '10.0.2.3',
} as const;

/** slirp4netns, by which a network namespace of a user reaches the world without any privilege. It is started again when it dies. */
export class Uplink {
  readonly #pid: number;
  readonly #log: Log;
  readonly #over = new AbortController();
  #child: ChildProcess | undefined;
  #running: Promise<void> = Promise.resolve();

  /** @param pid a process of the namespace */
  constructor(pid: number, log: Log) {
    this.#pid = pid;
    this.#log = log;
  }

  /** @throws TshyveError `precondition` that says why it cannot run */
  async start(): Promise<void> {
    const { ended } = await this.#launch();
    this.#running = this.#stay(ended);
  }

  async stop(): Promise<void> {
    this.#over.abort();
    this.#child?.kill('SIGTERM');
    await this.#running;
  }

  async #stay(first: Promise<unknown>): Promise<void> {
    let ended = first;
    let pause = FIRST_RETRY_MS;
    for (;;) {
      await ended;
      if (this.#over.signal.aborted) return;
      this.#log.info('slirp4netns has ended; starting it again.');
      await sleep(pause, this.#over.signal).catch(() => undefined);
      try {
        ({ ended } = await this.#launch());
        pause = FIRST_RETRY_MS;
      } catch (error) {
        this.#log.info(messageOf(error));
        pause = Math.min(pause * 2, LAST_RETRY_MS);
      }
    }
  }

  /** Resolves once the interface is there. `ended` settles when slirp4netns is gone; it never rejects. */
  async #launch(): Promise<{ readonly ended: Promise<unknown> }> {
    const safe = ['--enable-sandbox', '--enable-seccomp'];
    const fds = ['--ready-fd=3', '--exit-fd=4'];
    const args = ['--configure', `--mtu=${String(MTU)}`, ...safe, ...fds, String(this.#pid), INTERFACE];
    const child = spawn('slirp4netns', args, {
      // The last pipe closes when this process dies, and slirp4netns ends with it.
      stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'],
      env: commandEnvironment(),
    });
    this.#child = child;
    let said = '';
    child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
      said = (said + chunk).slice(-2000);
    });
    const ready = child.stdio[3] as Readable;
    for (const pipe of [ready, child.stdio[4] as Readable]) pipe.on('error', () => undefined);
    const ended = new Promise<Error | undefined>((resolve) => {
      child.once('error', resolve);
      child.once('close', () => {
        resolve(undefined);
      });
    });
    const started = Promise.race([
      new Promise<true>((resolve) =>
        ready.once('data', () => {
          resolve(true);
        }),
      ),
      ended,
    ]);
    const result = await within(started, START_TIMEOUT_MS, 'slirp4netns', this.#over.signal).catch((error: unknown) => {
      child.kill('SIGKILL');
      throw error;
    });
    if (result === true) return { ended };
    if (codeOf(result) === 'ENOENT') {
      throw new TshyveError(
        'precondition',
        'A network without root reaches the world by slirp4netns, which is missing. Install it: "apt-get install slirp4netns".',
      );
    }
    throw new TshyveError('precondition', `slirp4netns does not start: ${said.trim().split('\n').slice(-3).join(' ')}`);
  }
}
