import type { Socket } from 'node:net';

import { type Log, TshyveError, messageOf } from '../base/index.js';
import type { Driver, Operation } from '../machine/driver.js';
import type { GobValue } from './gob/index.js';
import type { Listener } from './listener.js';
import { type Call, RpcConnection } from './netrpc/index.js';
import { type Method, findMethod } from './service.js';

/**
 * Clients send a heartbeat every 5 s; libmachine's server ends itself after 10 s without. On a busy machine either process
 * may wait that long for its turn, and a client that dies closes the connection.
 */
const HEARTBEAT_TIMEOUT_MS = 60_000;
/** A timer that fires later than this part of its time says that the process did not run. */
const LATE = 0.1;
/** How long an aborted operation may clean up before the process ends anyway. */
const CLEANUP_TIMEOUT_MS = 30_000;
/** How long the reply to Close may take to leave. */
const FLUSH_TIMEOUT_MS = 100;
/** Calls that take this long or longer leave their duration in the debug log. */
const NOTEWORTHY_CALL_MS = 2;

export interface PluginServerOptions {
  readonly loadDriver: () => Promise<Driver>;
  /** Progress; only used while a changing call runs, because stdout of other commands is read by machines. */
  readonly info: (line: string) => void;
  readonly debug: (line: string) => void;
  readonly heartbeatTimeoutMs?: number;
}

/** Why the server has ended, as the exit code of the process. */
export type ExitCode = 0 | 1 | 130;

/**
 * The libmachine plugin server: one TCP listener on loopback, one connection for its whole life (clients open exactly
 * one; anybody else who connects is turned away, since the protocol has no authentication).
 */
export class PluginServer {
  /** Settles when the process should exit; never rejects. */
  readonly ended: Promise<ExitCode>;
  readonly #options: PluginServerOptions;
  readonly #listener: Listener;
  readonly #abort = new AbortController();
  readonly #end: (code: ExitCode) => void;
  #driver: Promise<Driver> | undefined;
  #socket: Socket | undefined;
  /** Changing calls run one after the other; getters and heartbeats are answered meanwhile. */
  #changes: Promise<void> = Promise.resolve();
  #heartbeat: NodeJS.Timeout | undefined;
  #ending = false;

  constructor(listener: Listener, options: PluginServerOptions) {
    this.#listener = listener;
    this.#options = options;
    let end: (code: ExitCode) => void = () => undefined;
    this.ended = new Promise((resolve) => {
      end = resolve;
    });
    this.#end = end;
    this.#rearm();
    listener.serve((socket) => {
      this.#accept(socket);
    });
  }

  /** Begins loading the driver, so that it is there when the first call needs it. */
  warmUp(): void {
    this.#loadDriver().catch(() => undefined);
  }

  /** Aborts what runs, lets it clean up, then ends with this exit code. Repeated calls change nothing. */
  shutDown(code: ExitCode, reason: string): void {
    if (this.#ending) return;
    this.#ending = true;
    clearTimeout(this.#heartbeat);
    this.#options.debug(`Ending: ${reason}`);
    this.#abort.abort();
    this.#listener.close();
    const limit = new Promise<void>((resolve) => {
      setTimeout(resolve, CLEANUP_TIMEOUT_MS);
    });
    void Promise.race([this.#changes, limit]).then(() => {
      this.#socket?.destroy();
      this.#end(code);
    });
  }

  #loadDriver(): Promise<Driver> {
    this.#driver ??= this.#options.loadDriver();
    return this.#driver;
  }

  #rearm(): void {
    clearTimeout(this.#heartbeat);
    if (this.#ending) return;
    const limit = this.#options.heartbeatTimeoutMs ?? HEARTBEAT_TIMEOUT_MS;
    const due = performance.now() + limit;
    this.#heartbeat = setTimeout(() => {
      // This process was stopped, or starved: what the client sent meanwhile is read only after this.
      if (performance.now() - due > limit * LATE) this.#rearm();
      else this.shutDown(1, 'no heartbeat from the client');
    }, limit);
  }

  #accept(socket: Socket): void {
    socket.on('error', (error) => {
      this.#options.debug(`Connection: ${error.message}`);
    });
    if (this.#socket !== undefined || this.#ending) {
      socket.destroy();
      return;
    }
    this.#socket = socket;
    socket.setNoDelay(true);
    const connection = new RpcConnection();
    socket.on('data', (chunk: Buffer) => {
      this.#receive(socket, connection, chunk);
    });
    socket.on('close', () => {
      if (this.#socket === socket) this.shutDown(0, 'the client closed the connection');
    });
  }

  #receive(socket: Socket, connection: RpcConnection, chunk: Buffer): void {
    let received: ReturnType<RpcConnection['receive']>;
    try {
      received = connection.receive(chunk);
    } catch (error) {
      this.#options.debug(`Dropping the connection: ${messageOf(error)}`);
      socket.destroy();
      return;
    }
    if (received.send !== undefined) socket.write(received.send);
    if (connection.refused) {
      // Not our client: leave the place to the real one.
      this.#socket = undefined;
      socket.end();
      return;
    }
    for (const call of received.calls) this.#dispatch(socket, connection, call);
  }

  #dispatch(socket: Socket, connection: RpcConnection, call: Call): void {
    let method: Method;
    try {
      method = findMethod(call.serviceMethod);
    } catch (error) {
      socket.write(connection.fail(call, messageOf(error)));
      return;
    }
    if (call.serviceMethod.endsWith('.Heartbeat')) this.#rearm();
    const answer = async (): Promise<void> => {
      const begin = performance.now();
      const outcome = await this.#run(call, method);
      const ms = Math.round(performance.now() - begin);
      if (ms >= NOTEWORTHY_CALL_MS) this.#options.debug(`${call.serviceMethod} took ${String(ms)} ms`);
      // Encoding defines types on the stream, so it must happen in the order of writing: in one step with it.
      const bytes = encodeOutcome(connection, call, method, outcome);
      if (method.kind === 'close') this.#close(socket, bytes);
      else if (socket.writable) socket.write(bytes);
    };
    if (method.kind === 'change') this.#changes = this.#changes.then(answer);
    else void answer();
  }

  /** Runs a call; whatever happens becomes an outcome. */
  async #run(call: Call, method: Method): Promise<Outcome> {
    const log: Log = {
      debug: this.#options.debug,
      info: method.kind === 'change' ? this.#options.info : this.#options.debug,
    };
    const operation: Operation = { log, signal: this.#abort.signal };
    try {
      const driver = await this.#loadDriver();
      return { value: await method.run(driver, call.argument, operation) };
    } catch (error) {
      if (!TshyveError.is(error)) this.#options.debug(error instanceof Error ? (error.stack ?? '') : String(error));
      return { error: messageOf(error) };
    }
  }

  #close(socket: Socket, reply: Buffer): void {
    this.#options.debug('Closing plugin on server side');
    const leave = () => {
      this.shutDown(0, 'the client asked for it');
    };
    setTimeout(leave, FLUSH_TIMEOUT_MS);
    socket.end(reply, leave);
  }
}

type Outcome = { readonly value: GobValue } | { readonly error: string };

function encodeOutcome(connection: RpcConnection, call: Call, method: Method, outcome: Outcome): Buffer {
  return 'value' in outcome
    ? connection.reply(call, method.reply, outcome.value)
    : connection.fail(call, outcome.error);
}
