import { TshyveError } from '../../base/index.js';

/** A peer's bytes do not follow the gob format. */
export function gobError(message: string): TshyveError {
  return new TshyveError('protocol', `gob: ${message}`);
}

/**
 * Thrown when a value goes on beyond the messages at hand. Not an error: the decoder forgets what it did and starts
 * the value again when the next message is complete.
 */
export class NeedMoreMessages extends Error {
  constructor() {
    super('the value continues in a message that has not arrived');
  }
}

/** Where an unsigned number of the wire ends, or undefined when its bytes are incomplete. */
export interface PartialUint {
  readonly value: bigint;
  readonly next: number;
}

/**
 * Reads an unsigned number: up to 127 one byte; else 256 - n, then n bytes big-endian.
 * @returns undefined when `bytes` ends inside the number
 */
export function readUint(bytes: Buffer, offset: number): PartialUint | undefined {
  const first = bytes[offset];
  if (first === undefined) return undefined;
  if (first < 0x80) return { value: BigInt(first), next: offset + 1 };
  const count = 256 - first;
  if (count > 8) throw gobError(`a number of ${String(count)} bytes (8 are the most)`);
  if (offset + 1 + count > bytes.length) return undefined;
  let value = 0n;
  for (let index = offset + 1; index <= offset + count; index++) value = (value << 8n) | BigInt(bytes[index] ?? 0);
  return { value, next: offset + 1 + count };
}

/** Undoes the sign folding of gob's signed numbers: the lowest bit says "complement". */
export function signed(value: bigint): bigint {
  return (value & 1n) === 1n ? BigInt.asIntN(64, ~(value >> 1n)) : value >> 1n;
}

/**
 * Walks over the payloads of consecutive messages as the decoder of one value does. Only an interface value may cross
 * from one message into the next (see `beginMessage`).
 */
export class MessageReader {
  readonly #messages: readonly Buffer[];
  #index = 0;
  #bytes: Buffer;
  #offset = 0;

  constructor(messages: readonly Buffer[]) {
    const first = messages[0];
    if (first === undefined) throw new NeedMoreMessages();
    this.#messages = messages;
    this.#bytes = first;
  }

  get remaining(): number {
    return this.#bytes.length - this.#offset;
  }

  /** How many messages have been entered. */
  get messagesUsed(): number {
    return this.#index + 1;
  }

  /** Enters the next message; the current one must be used up. */
  beginMessage(): void {
    if (this.remaining > 0) throw gobError(`${String(this.remaining)} bytes left over in a message`);
    const next = this.#messages[this.#index + 1];
    if (next === undefined) throw new NeedMoreMessages();
    this.#index++;
    this.#bytes = next;
    this.#offset = 0;
  }

  uint(): bigint {
    const number = readUint(this.#bytes, this.#offset);
    if (number === undefined) throw gobError('a message ends inside a number');
    this.#offset = number.next;
    return number.value;
  }

  int(): bigint {
    return signed(this.uint());
  }

  /** A length or count that must fit into what is left, at `unit` bytes each at least. */
  count(what: string, unit: number): number {
    const value = this.uint();
    const most = unit === 0 ? Number.MAX_SAFE_INTEGER : Math.floor(this.remaining / unit);
    if (value > BigInt(most)) throw gobError(`${what} claims ${String(value)} where at most ${String(most)} fit`);
    return Number(value);
  }

  /** A copy, so that a value does not keep the receive buffer alive. */
  bytes(length: number): Buffer {
    if (length > this.remaining) throw gobError('a message ends inside a string');
    const copy = Buffer.from(this.#bytes.subarray(this.#offset, this.#offset + length));
    this.#offset += length;
    return copy;
  }

  /** A type number: small in every honest stream. */
  typeId(): number {
    const id = this.int();
    if (id > 0x7fff_ffffn || id < -0x7fff_ffffn) throw gobError(`type number ${String(id)} is out of range`);
    return Number(id);
  }
}
