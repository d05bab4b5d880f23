import { type GobValue, GobDecoder, GobEncoder, type GobSchema, text } from '../gob/index.js';
import { TshyveError } from '../../base/index.js';

/**
 * Go's net/rpc as a state machine: bytes in, calls out; answers in, bytes out. One object per connection; it knows no
 * socket. Sources: package documentation and source layout of net/rpc (`DialHTTP`, `Request`, `Response`).
 */

/** What DialHTTP sends first; Go writes bare line feeds. */
const connectLine = /^CONNECT \/_goRPC_ HTTP\/1\.[01]$/;
/** What DialHTTP waits for. */
const connected = Buffer.from('HTTP/1.0 200 Connected to Go RPC\n\n');
const refused = Buffer.from(
  'HTTP/1.0 405 Method Not Allowed\nContent-Type: text/plain; charset=utf-8\n\n405 must CONNECT\n',
);
const MAX_PREAMBLE_BYTES = 4096;

const responseSchema: GobSchema = {
  kind: 'struct',
  name: 'Response',
  fields: [
    ['ServiceMethod', 'string'],
    ['Seq', 'uint'],
    ['Error', 'string'],
  ],
};

/** Go's anonymous `struct{}`: argument and reply of calls that have none, and the body of every error. */
export const emptyStruct: GobSchema = { kind: 'struct', name: '', fields: [] };
export const emptyValue: GobValue = { kind: 'struct', fields: new Map() };

/** A call as it came in. */
export interface Call {
  readonly serviceMethod: string;
  readonly sequence: bigint;
  readonly argument: GobValue;
}

export class RpcConnection {
  readonly #decoder = new GobDecoder();
  readonly #encoder = new GobEncoder();
  #preamble: Buffer | undefined = Buffer.alloc(0);
  #header: { serviceMethod: string; sequence: bigint } | undefined;
  #refused = false;

  /** True once the peer asked for something else than the RPC stream; `receive` returned the refusal to send. */
  get refused(): boolean {
    return this.#refused;
  }

  /**
   * Takes bytes of the peer.
   * @returns the calls that are complete now, and bytes to send at once (the answer to CONNECT, which must travel
   * alone: Go drops what is coalesced with it)
   * @throws TshyveError `protocol`; the connection is lost then
   */
  receive(chunk: Buffer): { readonly calls: Call[]; readonly send: Buffer | undefined } {
    let send: Buffer | undefined;
    let rest = chunk;
    if (this.#preamble !== undefined) {
      const preamble = Buffer.concat([this.#preamble, chunk]);
      const end = headerEnd(preamble);
      if (end === undefined) {
        if (preamble.length > MAX_PREAMBLE_BYTES) throw new TshyveError('protocol', 'The HTTP preamble is too long.');
        this.#preamble = preamble;
        return { calls: [], send: undefined };
      }
      this.#preamble = undefined;
      const line = preamble.subarray(0, end).toString('latin1').split(/\r?\n/, 1)[0] ?? '';
      if (!connectLine.test(line)) {
        this.#refused = true;
        return { calls: [], send: refused };
      }
      send = connected;
      rest = preamble.subarray(end);
    }
    this.#decoder.push(rest);
    return { calls: this.#calls(), send };
  }

  /** Encodes a reply. Call it in the order of writing: types are defined on first use. */
  reply(call: Pick<Call, 'serviceMethod' | 'sequence'>, schema: GobSchema, value: GobValue): Buffer {
    return Buffer.concat([this.#responseHeader(call, ''), this.#encoder.encode(schema, value)]);
  }

  /** Encodes an error. An empty text would read as success, so it gets a substitute. */
  fail(call: Pick<Call, 'serviceMethod' | 'sequence'>, error: string): Buffer {
    const header = this.#responseHeader(call, error === '' ? 'unknown error' : error);
    return Buffer.concat([header, this.#encoder.encode(emptyStruct, emptyValue)]);
  }

  #responseHeader(call: Pick<Call, 'serviceMethod' | 'sequence'>, error: string): Buffer {
    const fields = new Map<string, GobValue>([
      ['ServiceMethod', { kind: 'string', value: Buffer.from(call.serviceMethod) }],
      ['Seq', { kind: 'uint', value: call.sequence }],
      ['Error', { kind: 'string', value: Buffer.from(error) }],
    ]);
    return this.#encoder.encode(responseSchema, { kind: 'struct', fields });
  }

  #calls(): Call[] {
    const calls: Call[] = [];
    for (let decoded = this.#decoder.next(); decoded !== undefined; decoded = this.#decoder.next()) {
      if (this.#header === undefined) {
        this.#header = requestHeader(decoded.value);
      } else {
        calls.push({ ...this.#header, argument: decoded.value });
        this.#header = undefined;
      }
    }
    return calls;
  }
}

function requestHeader(value: GobValue): { serviceMethod: string; sequence: bigint } {
  if (value.kind !== 'struct') throw new TshyveError('protocol', 'net/rpc: a request header that is not a struct');
  const sequence = value.fields.get('Seq');
  if (sequence !== undefined && sequence.kind !== 'uint') {
    throw new TshyveError('protocol', 'net/rpc: a request header whose Seq is not an unsigned number');
  }
  return { serviceMethod: text(value.fields.get('ServiceMethod')), sequence: sequence?.value ?? 0n };
}

/** Offset behind the empty line that ends an HTTP header, with LF or CRLF. */
function headerEnd(bytes: Buffer): number | undefined {
  const bare = bytes.indexOf('\n\n');
  const full = bytes.indexOf('\r\n\r\n');
  if (bare < 0 && full < 0) return undefined;
  if (full < 0 || (bare >= 0 && bare < full)) return bare + 2;
  return full + 4;
}
