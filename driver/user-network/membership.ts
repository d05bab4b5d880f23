import { rm, stat, truncate } from 'node:fs/promises';

import type { CallOptions, Metadata, ServiceError } from '@grpc/grpc-js';

import { type Log, TshyveError, isServed, makeRunDirectory, messageOf, sleep, startDetached } from '../base/index.js';
import { ForwardTable, type PortForward, type SwitchNetworkSpec } from '../hypervisor/index.js';
import type { AttachEvent, UserNetworkClient } from './generated/user_network.js';
import { MachineSocket } from './machine-socket.js';
import { type UserNetworkPlace, userNetworkPlace } from './place.js';

const START_TIMEOUT_MS = 20_000;
const CALL_TIMEOUT_MS = 10_000;
/** A process that ends and one that starts may meet. */
const ATTEMPTS = 5;
const FIRST_RETRY_MS = 50;
const LAST_RETRY_MS = 5_000;
const MAX_LOG_BYTES = 1 << 20;

/** An open call of Attach. */
interface Attachment {
  readonly client: UserNetworkClient;
  /** Settles when the machine is not on the network any more; never rejects. */
  readonly over: Promise<void>;
  readonly isOver: () => boolean;
  readonly cancel: () => void;
}

/**
 * A machine's place on a user-mode network: its port at the switch and its forwards. If the switch dies, it is started
 * again, and the machine gets both back as they were; the machine itself notices some lost frames.
 */
export class Membership {
  readonly ports: ForwardTable;
  readonly #spec: SwitchNetworkSpec;
  readonly #place: UserNetworkPlace;
  readonly #log: Log;
  readonly #socket: MachineSocket;
  readonly #over = new AbortController();
  #onAddress: (address: string) => void = () => undefined;
  #onProblem: (problem: string) => void = () => undefined;
  #attachment: Attachment | undefined;

  private constructor(spec: SwitchNetworkSpec, log: Log) {
    this.#spec = spec;
    this.#place = userNetworkPlace(spec.network);
    this.#log = log;
    this.#socket = new MachineSocket(spec.machineSocket, log);
    this.ports = new ForwardTable(spec.hostAddress, {
      bind: async (forward) => {
        const { hostPort } = await this.#call<{ hostPort: number }>((client, how, callback) =>
          client.addForward(this.#wire(forward), ...how, callback),
        );
        return hostPort;
      },
      unbind: async (forward) => {
        await this.#call((client, how, callback) => client.removeForward(this.#wire(forward), ...how, callback));
      },
    });
  }

  /**
   * Brings a machine onto its network, which is started if need be, with all its forwards.
   * @throws TshyveError `precondition` and the like that say why not
   */
  static async join(spec: SwitchNetworkSpec, log: Log): Promise<Membership> {
    const self = new Membership(spec, log);
    // A hypervisor that was killed has left it.
    await rm(spec.machineSocket, { force: true });
    try {
      await self.#attach();
      for (const forward of spec.forwards) await self.ports.add(forward);
    } catch (error) {
      await self.leave();
      throw error;
    }
    void self.#stay();
    return self;
  }

  /** Tells each time the machine was given its address, and what is wrong with its network: a sentence, or nothing. */
  watch(onAddress: (address: string) => void, onProblem: (problem: string) => void): void {
    this.#onAddress = onAddress;
    this.#onProblem = onProblem;
    // The hypervisor has made it by now.
    this.#socket.guard();
  }

  async leave(): Promise<void> {
    this.#over.abort();
    this.#attachment?.cancel();
    await this.#attachment?.over;
    await this.#socket.close();
  }

  /** Attaches again and again, until the machine leaves. */
  async #stay(): Promise<void> {
    for (;;) {
      await this.#attachment?.over;
      if (this.#hasLeft()) return;
      const problem = `The switch of the network "${this.#place.name}" is gone; starting it again.`;
      this.#log.info(problem);
      this.#onProblem(problem);
      for (let pause = FIRST_RETRY_MS; !(await this.#comeBack()); pause = Math.min(pause * 2, LAST_RETRY_MS)) {
        await sleep(pause, this.#over.signal).catch(() => undefined);
        if (this.#hasLeft()) return;
      }
      this.#log.info(`The machine is on the network "${this.#place.name}" again.`);
      this.#onProblem('');
    }
  }

  #hasLeft(): boolean {
    return this.#over.signal.aborted;
  }

  /** @returns true when it has all back that it had */
  async #comeBack(): Promise<boolean> {
    try {
      if (this.#attachment?.isOver() !== false) {
        this.ports.forgetBindings();
        await this.#attach();
        this.#socket.guard();
      }
      await this.ports.renew();
      return true;
    } catch (error) {
      const problem = `The network "${this.#place.name}": ${messageOf(error)}`;
      this.#log.info(problem);
      this.#onProblem(problem);
      return false;
    }
  }

  async #attach(): Promise<void> {
    let failure: unknown;
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      await this.#startSwitch();
      try {
        this.#attachment = await this.#open();
        return;
      } catch (error) {
        failure = error;
        if (TshyveError.is(error) && error.kind !== 'internal') throw error;
        await sleep(FIRST_RETRY_MS, this.#over.signal);
      }
    }
    throw failure;
  }

  /** Opens the call and resolves when the machine is attached. */
  async #open(): Promise<Attachment> {
    const [{ credentials }, { UserNetworkClient: Client }, { fromServiceError }] = await Promise.all([
      import('@grpc/grpc-js'),
      import('./generated/user_network.js'),
      import('../grpc/index.js'),
    ]);
    const client = new Client(`unix:${this.#place.socket}`, credentials.createInsecure());
    const stream = client.attach({ mac: this.#spec.mac, hostname: this.#spec.hostname });
    const cancel = () => {
      stream.cancel();
    };
    try {
      await new Promise<void>((resolve, reject) => {
        stream.on('data', ({ name, address }: AttachEvent) => {
          if (name === 'attached') resolve();
          else if (name === 'lease') this.#onAddress(address);
        });
        stream.on('error', (error) => {
          reject(fromServiceError(error as ServiceError));
        });
        stream.on('end', () => {
          reject(new TshyveError('internal', 'The switch ended the connection.'));
        });
      });
    } catch (error) {
      cancel();
      client.close();
      throw error;
    }
    let ended = false;
    const over = new Promise<void>((resolve) => {
      const end = () => {
        ended = true;
        client.close();
        resolve();
      };
      stream.once('error', end);
      stream.once('end', end);
      if (stream.destroyed) end();
    });
    return { client, over, isOver: () => ended, cancel };
  }

  /** Sees to it that somebody serves the network. */
  async #startSwitch(): Promise<void> {
    const place = this.#place;
    for (let attempt = 0; ; attempt++) {
      if (await isServed(place.socket)) return;
      await makeRunDirectory(place.id);
      const { size } = await stat(place.log).catch(() => ({ size: 0 }));
      if (size > MAX_LOG_BYTES) await truncate(place.log);
      try {
        await startDetached({
          program: 'tshyve-switch',
          args: ['--network', place.name],
          log: place.log,
          what: `the switch of the network "${place.name}"`,
          timeoutMs: START_TIMEOUT_MS,
          signal: this.#over.signal,
        });
        return;
      } catch (error) {
        // Another machine of the network has just started it, or it is on its way out.
        if (!TshyveError.is(error, 'busy') || attempt >= START_TIMEOUT_MS / FIRST_RETRY_MS) throw error;
      }
      await sleep(FIRST_RETRY_MS, this.#over.signal);
    }
  }

  #wire({ protocol, hostAddress, hostPort, guestPort }: PortForward) {
    return { mac: this.#spec.mac, protocol, hostAddress, hostPort, guestPort };
  }

  async #call<T>(
    start: (
      client: UserNetworkClient,
      how: [Metadata, CallOptions],
      callback: (error: ServiceError | null, response: T) => void,
    ) => unknown,
  ): Promise<T> {
    const [{ fromServiceError }, grpc] = await Promise.all([import('../grpc/index.js'), import('@grpc/grpc-js')]);
    const client = this.#attachment?.client;
    if (client === undefined) throw new TshyveError('not-running', 'The machine is not on its network.');
    return new Promise((resolve, reject) => {
      start(client, [new grpc.Metadata(), { deadline: Date.now() + CALL_TIMEOUT_MS }], (error, response) => {
        if (error === null) resolve(response);
        else reject(fromServiceError(error));
      });
    });
  }
}
