import { TshyveError, messageOf } from '../base/index.js';
import type { PortForward, PortForwardSpec, Protocol } from './vm-spec.js';

/** Whoever binds a machine's host ports. It binds by itself, so nobody can take a port between a test and its use. */
export interface PortBinder {
  /**
   * Leads a host port to the machine.
   * @param forward with host port 0 for any free one
   * @returns the host port that is bound
   * @throws TshyveError `busy` or `precondition` when this port cannot be had; others may be
   */
  bind(forward: PortForward): Promise<number>;
  /** @throws TshyveError `not-found` */
  unbind(forward: PortForward): Promise<void>;
}

/** A forward, as the host sees it. */
export interface HostPort {
  readonly protocol: Protocol;
  readonly hostPort: number;
}

/** The port forwards of one machine that are in force. */
export class ForwardTable {
  readonly #hostAddress: string;
  readonly #binder: PortBinder;
  #forwards: readonly PortForward[] = [];
  readonly #unbound = new Set<PortForward>();

  /** @param hostAddress the loopback address that belongs to the machine */
  constructor(hostAddress: string, binder: PortBinder) {
    this.#hostAddress = hostAddress;
    this.#binder = binder;
  }

  get forwards(): readonly PortForward[] {
    return this.#forwards;
  }

  /**
   * Takes the first host port that can be had.
   * @throws TshyveError `precondition` that names the ports when there is none
   */
  async add({ name, guestPort, hostPorts, protocol = 'tcp' }: PortForwardSpec): Promise<PortForward> {
    let refusal: unknown;
    for (const candidate of hostPorts) {
      const forward = { name, guestPort, hostAddress: this.#hostAddress, hostPort: candidate, protocol };
      try {
        const bound = { ...forward, hostPort: await this.#binder.bind(forward) };
        this.#forwards = [...this.#forwards, bound];
        return bound;
      } catch (error) {
        if (!TshyveError.is(error, 'busy') && !TshyveError.is(error, 'precondition')) throw error;
        refusal = error;
      }
    }
    const tried = hostPorts.map((port) => (port === 0 ? 'any free port' : String(port))).join(' or ');
    const who = name === ADDED ? `port ${String(guestPort)}` : `${name} port`;
    throw new TshyveError(
      'precondition',
      `Cannot forward ${this.#hostAddress}:${tried} to the machine's ${who}: it is taken or not permitted (${messageOf(refusal)}). Stop the program that listens there ("ss -ltnup" names it) or choose another port.`,
      { cause: refusal },
    );
  }

  /** @throws TshyveError `not-found` */
  async remove(port: HostPort): Promise<void> {
    const found = this.#forwards.find((forward) => isAt(forward, port));
    if (found === undefined) {
      throw new TshyveError('not-found', `No port ${String(port.hostPort)}/${port.protocol} is forwarded.`);
    }
    this.#forwards = this.#forwards.filter((forward) => forward !== found);
    if (!this.#unbound.delete(found)) await this.#binder.unbind(found);
  }

  /** Whoever had bound them is gone: `renew` has to bind them all. */
  forgetBindings(): void {
    for (const forward of this.#forwards) this.#unbound.add(forward);
  }

  /**
   * Binds those that are not, at the ports they had: clients have been told them.
   * @throws TshyveError of the first that cannot be had; the others are tried all the same
   */
  async renew(): Promise<void> {
    const failures: unknown[] = [];
    for (const forward of [...this.#unbound]) {
      try {
        await this.#binder.bind(forward);
        this.#unbound.delete(forward);
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0) throw failures[0];
  }
}

/** Names of forwards that a user, or a container in the guest, has asked for. */
export const ADDED = 'added';
export const PUBLISHED = 'published';

/** True for the forward at this port of the host. */
export function isAt(forward: HostPort, port: HostPort): boolean {
  return forward.protocol === port.protocol && forward.hostPort === port.hostPort;
}

/** For machines that have an address of their own. */
export function noForwards(): TshyveError {
  return new TshyveError(
    'precondition',
    'Ports are forwarded on user-mode networks only; elsewhere the machine has an address of its own, with all its ports.',
  );
}
