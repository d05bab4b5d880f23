import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';

import { TshyveError, within } from '../../base/index.js';

/** A reply or event line longer than this is not QEMU's. */
const MAX_LINE_BYTES = 1 << 20;
const COMMAND_TIMEOUT_MS = 10_000;

/** An event as QEMU sends it, e.g. `{ event: 'SHUTDOWN', data: { guest: true, reason: 'guest-shutdown' } }`. */
export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

interface Pending {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: TshyveError) => void;
}

/**
 * QEMU Machine Protocol client (docs/interop/qmp-spec): JSON lines, a greeting, capabilities negotiation, replies
 * matched by id, events in between. Emits `event` (QmpEvent) and `close`.
 */
export class QmpClient extends EventEmitter<{ event: [QmpEvent]; close: [] }> {
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  readonly #greeted: Promise<void>;
  #greet: () => void = () => undefined;
  #chunks: Buffer[] = [];
  #buffered = 0;
  #nextId = 1;

  constructor(socket: Socket) {
    super();
    this.#socket = socket;
    this.#greeted = new Promise((resolve) => {
      this.#greet = resolve;
    });
    socket.on('data', (chunk: Buffer) => {
      this.#receive(chunk);
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      for (const pending of this.#pending.values()) pending.reject(connectionLost(pending.command));
      this.#pending.clear();
      this.emit('close');
    });
  }

  /** Waits for the greeting and leaves negotiation mode. */
  async handshake(signal?: AbortSignal): Promise<void> {
    await within(this.#greeted, COMMAND_TIMEOUT_MS, "QEMU's QMP greeting", signal);
    await this.execute('qmp_capabilities');
  }

  /** @throws TshyveError `hypervisor` with QEMU's own description of the failure */
  execute(command: string, args: Record<string, unknown> = {}): Promise<unknown> {
    const id = this.#nextId++;
    const reply = new Promise<unknown>((resolve, reject) => {
      if (!this.#socket.writable) {
        reject(connectionLost(command));
        return;
      }
      this.#pending.set(id, { command, resolve, reject });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });
    return within(reply, COMMAND_TIMEOUT_MS, `QEMU's answer to ${command}`);
  }

  /**
   * Runs a human-monitor command.
   * @returns its output; errors come as text as well, success is mostly silent
   */
  async monitor(commandLine: string): Promise<string> {
    const output = await this.execute('human-monitor-command', { 'command-line': commandLine });
    return typeof output === 'string' ? output.trim() : '';
  }

  close(): void {
    this.#socket.destroy();
  }

  #receive(chunk: Buffer): void {
    let rest = chunk;
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
      const line = Buffer.concat([...this.#chunks, rest.subarray(0, end)]).toString('utf8');
      this.#chunks = [];
      this.#buffered = 0;
      rest = rest.subarray(end + 1);
      this.#line(line);
    }
    this.#chunks.push(rest);
    this.#buffered += rest.length;
    if (this.#buffered > MAX_LINE_BYTES) this.#socket.destroy();
  }

  #line(line: string): void {
    let message: unknown;
    try {
      message = JSON.parse(line);
    } catch {
      this.#socket.destroy();
      return;
    }
    if (!isRecord(message)) return;
    if ('QMP' in message) this.#greet();
    else if (typeof message['event'] === 'string') {
      this.emit('event', { event: message['event'], data: isRecord(message['data']) ? message['data'] : {} });
    } else if (typeof message['id'] === 'number') this.#reply(message['id'], message);
  }

  #reply(id: number, message: Record<string, unknown>): void {
    const pending = this.#pending.get(id);
    if (pending === undefined) return;
    this.#pending.delete(id);
    if ('return' in message) {
      pending.resolve(message['return']);
      return;
    }
    const error = isRecord(message['error']) ? message['error'] : {};
    const text = typeof error['desc'] === 'string' ? error['desc'] : 'no reason given';
    pending.reject(new TshyveError('hypervisor', `QEMU refused ${pending.command}: ${text}.`));
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function connectionLost(command: string): TshyveError {
  return new TshyveError('hypervisor', `QEMU went away before it answered ${command}.`);
}
