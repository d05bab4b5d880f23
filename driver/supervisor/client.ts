import { readFile } from 'node:fs/promises';

import type { CallOptions, Metadata, ServiceError } from '@grpc/grpc-js';

import { TshyveError, isLocked, sleep } from '../base/index.js';
import type { SupervisorClient as GeneratedClient } from './generated/supervisor.js';
import { startSupervisor } from './launch.js';
import { type MachineReference, knownPlace, supervisorPlace } from './place.js';
import { quickStatus } from './status.js';
import { type LaunchRequest, type MachineEvent, parseLastExit } from './types.js';

/** How long a supervisor may take to answer; one that is launching answers afterwards. */
const ANSWER_TIMEOUT_MS = 30_000;
/** How long a supervisor may take to leave after its machine is off. */
const LEAVE_TIMEOUT_MS = 10_000;

/** Writing all memory of a large machine to a slow disk takes minutes. */
const SAVE_TIMEOUT_MS = 900_000;

/** A connection to the supervisor of a running machine. */
export class SupervisorClient {
  readonly #machine: MachineReference;

  constructor(machine: MachineReference) {
    this.#machine = machine;
  }

  /**
   * Reports every event so far and each new one.
   * @returns when the machine is gone, or the signal fires
   */
  async watch(onEvent: (event: MachineEvent) => void, signal: AbortSignal): Promise<void> {
    const { client } = await this.#connect();
    try {
      await new Promise<void>((resolve) => {
        const stream = client.watchEvents({});
        const onAbort = () => {
          stream.cancel();
          resolve();
        };
        if (signal.aborted) onAbort();
        signal.addEventListener('abort', onAbort, { once: true });
        stream.on('data', (event: { name: string; argument: string; atMs: bigint }) => {
          onEvent({ name: event.name, argument: event.argument, atMs: Number(event.atMs) });
        });
        // The supervisor died: the same as the machine being gone.
        stream.on('error', () => {
          resolve();
        });
        stream.on('end', () => {
          resolve();
        });
      });
    } finally {
      client.close();
    }
  }

  /** @returns true when the guest did not power off in time and was ended by force */
  async stop(timeoutMs: number): Promise<boolean> {
    try {
      const { forced } = await this.#call<{ forced: boolean }>(
        (client, how, callback) => client.stop({ timeoutMs }, ...how, callback),
        timeoutMs,
      );
      await this.#left();
      return forced;
    } catch (error) {
      // It went off by itself in the same moment.
      if ((await quickStatus(this.#machine)) === undefined) return false;
      throw error;
    }
  }

  /** Ends the machine at once. A supervisor that does not answer is ended with it. */
  async kill(): Promise<void> {
    try {
      await this.#call((client, how, callback) => client.kill({}, ...how, callback));
      await this.#left();
    } catch (error) {
      const status = await quickStatus(this.#machine);
      // Nobody is there any more: that is what was wanted.
      if (status === undefined) return;
      if (status.supervisorPid === 0) throw error;
      process.kill(status.supervisorPid, 'SIGKILL');
      await this.#left();
      // Clears up behind it.
      await quickStatus(this.#machine);
    }
  }

  /** Saves the machine and ends it; see supervisor.proto. */
  async suspend(): Promise<void> {
    await this.#call((client, how, callback) => client.suspend({}, ...how, callback), SAVE_TIMEOUT_MS);
    await this.#left();
  }

  /** @throws TshyveError `precondition` when no port can be had, or the machine is not reached through ports */
  async addForward(forward: { name: string; protocol: string; hostPort: number; guestPort: number }): Promise<void> {
    await this.#call((client, how, callback) => client.addForward(forward, ...how, callback));
  }

  /** @throws TshyveError `not-found` */
  async removeForward(port: { protocol: string; hostPort: number }): Promise<void> {
    await this.#call((client, how, callback) => client.removeForward(port, ...how, callback));
  }

  async pause(): Promise<void> {
    await this.#call((client, how, callback) => client.pause({}, ...how, callback));
  }

  async resume(): Promise<void> {
    await this.#call((client, how, callback) => client.resume({}, ...how, callback));
  }

  /** Waits until the supervisor has let go of the machine folder. */
  async #left(): Promise<void> {
    const place = await knownPlace(this.#machine);
    const deadline = performance.now() + LEAVE_TIMEOUT_MS;
    while (await isLocked(place.lock)) {
      if (performance.now() > deadline) {
        throw new TshyveError(
          'timeout',
          `The supervisor of ${place.machineDirectory} does not end; see ${place.supervisorLog}.`,
        );
      }
      // It leaves 50 ms after its answer; the kernel tells nobody else when a lock is freed.
      await sleep(10);
    }
  }

  async #connect() {
    const [{ credentials }, { SupervisorClient: Client }] = await Promise.all([
      import('@grpc/grpc-js'),
      import('./generated/supervisor.js'),
    ]);
    const place = await knownPlace(this.#machine);
    return { client: new Client(`unix:${place.socket}`, credentials.createInsecure()) };
  }

  /** @param workMs how long the supervisor may work on it, beyond what it takes to answer */
  async #call<T>(
    start: (
      client: GeneratedClient,
      how: [Metadata, CallOptions],
      callback: (error: ServiceError | null, response: T) => void,
    ) => unknown,
    workMs = 0,
  ): Promise<T> {
    const [{ client }, { fromServiceError, kindTrailer }, grpc] = await Promise.all([
      this.#connect(),
      import('../grpc/index.js'),
      import('@grpc/grpc-js'),
    ]);
    const how: [Metadata, CallOptions] = [new grpc.Metadata(), { deadline: Date.now() + workMs + ANSWER_TIMEOUT_MS }];
    try {
      return await new Promise<T>((resolve, reject) => {
        start(client, how, (error, response) => {
          if (error === null) resolve(response);
          else if (error.code === grpc.status.UNAVAILABLE && error.metadata.get(kindTrailer).length === 0) {
            reject(this.#unreachable(error));
          } else reject(fromServiceError(error));
        });
      });
    } finally {
      client.close();
    }
  }

  #unreachable(cause: ServiceError): TshyveError {
    const { machineDirectory } = this.#machine;
    return new TshyveError(
      'timeout',
      `The supervisor of ${machineDirectory} does not answer. Its vmm.log there may say why; "kill" ends the machine.`,
      { cause },
    );
  }
}

/** @returns undefined when the machine does not run; clears what a dead supervisor left */
export async function findSupervisor(machine: MachineReference): Promise<SupervisorClient | undefined> {
  return (await quickStatus(machine)) === undefined ? undefined : new SupervisorClient(machine);
}

/** Launches a machine; see `startSupervisor`. */
export async function launchSupervisor(request: LaunchRequest, signal: AbortSignal): Promise<SupervisorClient> {
  await startSupervisor(request, signal);
  return new SupervisorClient(request);
}

/** How the last run of a machine ended, as a sentence; undefined when nothing is known. */
export async function lastExit(machine: MachineReference): Promise<string | undefined> {
  const place = supervisorPlace(machine);
  try {
    return parseLastExit(await readFile(place.lastExit, 'utf8'));
  } catch {
    return undefined;
  }
}
