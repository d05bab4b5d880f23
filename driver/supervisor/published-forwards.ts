import { type Log, messageOf, sleep } from '../base/index.js';
import { type PublishedPort, watchPublishedPorts } from '../guest/index.js';
import { type HostPort, PUBLISHED, type PortForwardSpec } from '../hypervisor/index.js';
import { type GuestWay, contactOwnGuest } from './guest-contact.js';

/** A guest whose Docker has just started has much to do, and most of it is waited for. */
const SETTLE_MS = 2_000;
const FIRST_RETRY_MS = 1_000;
const LAST_RETRY_MS = 60_000;
/** The guest decides how many ports it publishes. */
const MAX_PORTS = 256;

export interface PublishedForwardsOptions extends GuestWay {
  readonly add: (spec: PortForwardSpec) => Promise<unknown>;
  readonly remove: (port: HostPort) => Promise<void>;
  readonly log: Log;
}

/**
 * Forwards what containers and NodePorts publish in the guest, at the same port of the host where it is free. Watches as
 * long as the guest's Docker runs.
 */
export class PublishedForwards {
  readonly #options: PublishedForwardsOptions;
  readonly #over = new AbortController();
  #isWatching = false;
  #lookAgain = false;
  readonly #complained = new Set<string>();

  constructor(options: PublishedForwardsOptions) {
    this.#options = options;
  }

  /** Docker runs in the guest, or may: begins to watch, unless it does so already. */
  dockerRuns(): void {
    this.#lookAgain = true;
    if (this.#isWatching) return;
    this.#isWatching = true;
    void this.#watch();
  }

  close(): void {
    this.#over.abort();
  }

  async #watch(): Promise<void> {
    const { signal } = this.#over;
    let pause = SETTLE_MS;
    let retry = FIRST_RETRY_MS;
    while (await this.#rest(pause)) {
      let ran = true;
      this.#lookAgain = false;
      try {
        const session = await contactOwnGuest(this.#options, signal);
        const begun = performance.now();
        try {
          ran = await watchPublishedPorts(session, (ports) => this.#apply(ports), signal);
        } finally {
          session.close();
        }
        if (performance.now() - begun > LAST_RETRY_MS) retry = FIRST_RETRY_MS;
        if (!ran) {
          await this.#apply([]);
          // It says on the console when it starts again.
          if (!this.#mayLook()) return;
        }
      } catch (error) {
        if (!signal.aborted) this.#options.log.debug(`Published ports: ${messageOf(error)}`);
      }
      pause = retry;
      retry = Math.min(retry * 2, LAST_RETRY_MS);
    }
  }

  /** False when there is nothing to look for until Docker starts again. */
  #mayLook(): boolean {
    this.#isWatching = this.#lookAgain;
    return this.#lookAgain;
  }

  /** @returns false when there is nothing left to do */
  async #rest(ms: number): Promise<boolean> {
    await sleep(ms, this.#over.signal).catch(() => undefined);
    return !this.#over.signal.aborted;
  }

  /** Makes the forwards what the guest publishes. */
  async #apply(published: readonly PublishedPort[]): Promise<void> {
    const { forwards, add, remove, log } = this.#options;
    const wanted = new Map(published.map((port) => [keyOf(port.protocol, port.port), port]));
    const known = new Set<string>();
    for (const forward of forwards()) {
      const key = keyOf(forward.protocol, forward.guestPort);
      if (forward.name !== PUBLISHED || wanted.has(key)) known.add(key);
      else {
        log.info(`The guest does not publish ${key} any more`);
        await remove(forward).catch((error: unknown) => log.info(messageOf(error)));
      }
    }
    const missing = [...wanted].filter(([key]) => !known.has(key));
    for (const [key, { protocol, port }] of missing.slice(0, Math.max(0, MAX_PORTS - known.size))) {
      try {
        await add({ name: PUBLISHED, protocol, guestPort: port, hostPorts: [port, 0] });
        log.info(`The guest publishes ${key}`);
      } catch (error) {
        if (this.#over.signal.aborted) return;
        if (!this.#complained.has(key)) log.info(messageOf(error));
        this.#complained.add(key);
      }
    }
  }
}

function keyOf(protocol: string, port: number): string {
  return `${String(port)}/${protocol}`;
}
