import { once } from 'node:events';
import { type Socket, connect } from 'node:net';

import { afterEach, describe, expect, test } from 'vitest';

import { TshyveError } from '../../../driver/base/index.js';
import { GobDecoder } from '../../../driver/plugin/gob/index.js';
import { Listener, PluginServer } from '../../../driver/plugin/index.js';
import type { CreateFlag, Driver, FlagValue } from '../../../driver/machine/driver.js';
import { machineStates } from '../../../driver/machine/driver.js';
import { type Session, plain, recorded } from './recorded.js';

/** One call of a recorded session. */
interface RecordedCall {
  readonly method: string;
  readonly sequence: number;
  /** Where the request (header and argument) lies in the client's stream. */
  readonly start: number;
  readonly end: number;
  readonly argument: unknown;
  readonly error: string;
  readonly reply: unknown;
}

interface Header {
  readonly ServiceMethod?: string;
  readonly Seq?: number;
  readonly Error?: string;
}

function callsOf(session: Session): RecordedCall[] {
  const parts = (direction: string) => session.messages.filter((message) => message.dir === direction);
  const replies = new Map<number, { error: string; reply: unknown }>();
  const answers = parts('server->client');
  for (let index = 0; index + 1 < answers.length; index += 2) {
    const header = answers[index]?.decoded as Header;
    replies.set(header.Seq ?? 0, { error: header.Error ?? '', reply: answers[index + 1]?.decoded });
  }
  const requests = parts('client->server');
  const calls: RecordedCall[] = [];
  for (let index = 0; index + 1 < requests.length; index += 2) {
    const [head, body] = [requests[index], requests[index + 1]];
    if (head === undefined || body === undefined) break;
    const header = head.decoded as Header;
    const sequence = header.Seq ?? 0;
    const answer = replies.get(sequence);
    // The client may be gone before the last answer was recorded.
    if (answer === undefined) continue;
    calls.push({
      method: header.ServiceMethod ?? '',
      sequence,
      start: head.offset,
      end: body.offset + body.length,
      argument: body.decoded,
      ...answer,
    });
  }
  return calls;
}

/** A driver that answers what the recorded Go server answered, and checks that it is asked what was recorded. */
class ScriptedDriver implements Driver {
  current: RecordedCall | undefined;
  /** Lets a Create of a recording with heartbeats last until they were answered. */
  gate: Promise<void> = Promise.resolve();
  creating: RecordedCall | undefined;
  readonly #bugs: string[] = [];

  get bugs(): readonly string[] {
    return this.#bugs;
  }
  get driverName(): string {
    return this.#answer() as string;
  }
  get machineName(): string {
    return this.#answer() as string;
  }
  setConfigRaw(json: string): void {
    const wanted = (this.current?.argument as { $bytes_latin1: string }).$bytes_latin1;
    if (Buffer.from(json).toString('latin1') !== wanted) this.#bugs.push(`SetConfigRaw got ${json}`);
    this.#answer();
  }
  getConfigRaw(): string {
    return Buffer.from((this.#answer() as { $bytes_latin1: string }).$bytes_latin1, 'latin1').toString('utf8');
  }
  createFlags(): CreateFlag[] {
    const kinds = { StringFlag: 'string', IntFlag: 'int', BoolFlag: 'bool', StringSliceFlag: 'strings' } as const;
    const flags = this.#answer() as { $type: string; value: Record<string, unknown> }[];
    return flags.map(({ $type, value }) => {
      const kind = kinds[$type.replace('*mcnflag.', '') as keyof typeof kinds];
      const zero = { string: '', int: 0, bool: false, strings: [] }[kind];
      return {
        kind,
        name: value['Name'] ?? '',
        usage: value['Usage'] ?? '',
        envVar: value['EnvVar'] ?? '',
        value: value['Value'] ?? zero,
      } as CreateFlag;
    });
  }
  setConfigFromFlags(values: ReadonlyMap<string, FlagValue>): void {
    const argument = this.current?.argument as { value: { Values?: Record<string, { value: unknown } | null> } };
    const wanted = Object.entries(argument.value.Values ?? {}).map(([key, item]) => [key, item?.value ?? null]);
    if (JSON.stringify([...values]) !== JSON.stringify(wanted))
      this.#bugs.push(`flags: ${JSON.stringify([...values])}`);
    this.#answer();
  }
  preCreateCheck = () => this.#later();
  create = async () => {
    await this.gate;
    this.#answer(this.creating ?? this.current);
  };
  start = () => this.#later();
  stop = () => this.#later();
  restart = () => this.#later();
  kill = () => this.#later();
  suspend = () => this.#later();
  remove = () => this.#later();
  upgrade = () => this.#later();
  getState = () => Promise.resolve(machineStates[this.#answer() as number] ?? 'none');
  getURL = () => this.#text();
  getIP = () => this.#text();
  getIPv6 = () => this.#text();
  getSSHHostname = () => this.#text();
  getSSHPort = () => Promise.resolve(this.#answer() as number);
  getSSHKeyPath = () => this.#answer() as string;
  getSSHUsername = () => this.#answer() as string;

  #answer(call = this.current): unknown {
    if (call === undefined) throw new Error('called without a recorded call');
    if (call.error !== '') throw new TshyveError('internal', call.error);
    return call.reply;
  }
  async #text(): Promise<string> {
    await Promise.resolve();
    return this.#answer() as string;
  }
  async #later(): Promise<void> {
    await Promise.resolve();
    this.#answer();
  }
}

/** Reads answers as a Go client does: a header, then a body. */
class Answers {
  readonly #decoder = new GobDecoder();
  readonly #waiting = new Map<number, (answer: { header: Header; body: unknown }) => void>();
  #header: Header | undefined;
  #preamble = Buffer.alloc(0);
  readonly connected: Promise<void>;

  constructor(socket: Socket) {
    let connected: () => void;
    this.connected = new Promise((resolve) => {
      connected = resolve;
    });
    socket.on('data', (chunk: Buffer) => {
      let rest = chunk;
      if (this.#preamble.length < 34) {
        this.#preamble = Buffer.concat([this.#preamble, chunk]);
        if (this.#preamble.length < 34) return;
        expect(this.#preamble.subarray(0, 34).toString()).toBe('HTTP/1.0 200 Connected to Go RPC\n\n');
        rest = this.#preamble.subarray(34);
        connected();
      }
      this.#decoder.push(rest);
      for (let value = this.#decoder.next(); value !== undefined; value = this.#decoder.next()) {
        if (this.#header === undefined) this.#header = plain(value.value) as Header;
        else {
          this.#waiting.get(this.#header.Seq ?? 0)?.({ header: this.#header, body: plain(value.value) });
          this.#header = undefined;
        }
      }
    });
  }

  to(sequence: number): Promise<{ header: Header; body: unknown }> {
    return new Promise((resolve) => this.#waiting.set(sequence, resolve));
  }
}

// A docker/machine server has no GetIPv6 (rancher's fork added it), ours does.
const answeredDifferently = new Set(['RPCServerDriver.GetIPv6']);

let server: PluginServer | undefined;
afterEach(() => {
  server?.shutDown(0, 'the test is over');
});

/** Plays a recorded client against our server, in pieces of `chunk` bytes. */
async function replay(session: Session, chunk: number): Promise<void> {
  const driver = new ScriptedDriver();
  const listener = new Listener();
  const [, port] = (await listener.listen()).split(':');
  server = new PluginServer(listener, {
    loadDriver: () => Promise.resolve(driver),
    info: () => undefined,
    debug: () => undefined,
  });
  const socket = connect(Number(port), '127.0.0.1');
  await once(socket, 'connect');
  socket.setNoDelay(true);
  const answers = new Answers(socket);
  const stream = Buffer.from(session.c2s_hex, 'hex');
  const send = (from: number, to: number) => {
    for (let at = from; at < to; at += chunk) socket.write(stream.subarray(at, Math.min(at + chunk, to)));
  };
  send(0, 27);
  await answers.connected;
  const heartbeats = session.messages.filter((message) => {
    return (
      (message.decoded as Header).ServiceMethod?.endsWith('.Heartbeat') === true && message.dir === 'client->server'
    );
  }).length;
  let answered = 0;
  let pending: Promise<unknown> | undefined;
  let openGate: () => void = () => undefined;
  for (const call of callsOf(session)) {
    const overlapping = call.method.endsWith('.Create') && heartbeats > 0;
    if (overlapping) {
      driver.creating = call;
      driver.gate = new Promise((resolve) => (openGate = resolve));
    }
    driver.current = call;
    const answer = answers.to(call.sequence).then(({ header, body }) => {
      if (answeredDifferently.has(call.method)) return;
      expect(header.Error ?? '', call.method).toBe(call.error);
      if (call.error === '') expect(body, call.method).toEqual(call.reply);
    });
    send(call.start, call.end);
    if (overlapping) pending = answer;
    else await answer;
    if (call.method.endsWith('.Heartbeat') && ++answered === heartbeats) {
      openGate();
      await pending;
    }
  }
  expect(driver.bugs).toEqual([]);
  if (callsOf(session).at(-1)?.method.endsWith('.Close') === true) expect(await server.ended).toBe(0);
  socket.destroy();
}

describe('the recorded Go clients go on with our answers', () => {
  test.each(recorded.sessions.map((session) => [session.name, session] as const))('%s', async (_, session) => {
    await replay(session, Infinity);
  });
  test.each(recorded.sessions.map((session) => [session.name, session] as const))(
    '%s in pieces',
    async (_, session) => {
      await replay(session, 5);
    },
  );
});
