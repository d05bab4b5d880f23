/** What stands before each frame on a byte stream. */
export type LengthPrefix = 'big-endian 32' | 'little-endian 16';

/** What QEMU and passt send at the most: 64 KiB of a segment and its headers. */
const MAX_FRAME_BYTES = 69_632;

/** Whole frames of a stream. */
export interface CutFrames {
  /** The frames without their prefixes. */
  readonly frames: readonly Buffer[];
  /** The same with prefixes, as they came. */
  readonly raw: Buffer;
}

export function prefixSize(prefix: LengthPrefix): number {
  return prefix === 'big-endian 32' ? 4 : 2;
}

/** @param length fits the prefix */
export function encodePrefix(prefix: LengthPrefix, length: number): Buffer {
  const bytes = Buffer.alloc(prefixSize(prefix));
  if (prefix === 'big-endian 32') bytes.writeUInt32BE(length);
  else bytes.writeUInt16LE(length);
  return bytes;
}

/** Cuts a byte stream that arrives in chunks of any size into frames. */
export class FrameCutter {
  readonly #prefix: LengthPrefix;
  #rest: Buffer = Buffer.alloc(0);

  constructor(prefix: LengthPrefix) {
    this.#prefix = prefix;
  }

  /**
   * Takes the next bytes.
   * @returns the frames that are whole now; undefined when a length is impossible: the stream is out of step for good
   */
  push(chunk: Buffer): CutFrames | undefined {
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const size = prefixSize(this.#prefix);
    const frames: Buffer[] = [];
    let at = 0;
    while (bytes.length - at >= size) {
      const length = this.#prefix === 'big-endian 32' ? bytes.readUInt32BE(at) : bytes.readUInt16LE(at);
      if (length > MAX_FRAME_BYTES) return undefined;
      if (bytes.length - at - size < length) break;
      frames.push(bytes.subarray(at + size, at + size + length));
      at += size + length;
    }
    this.#rest = bytes.subarray(at);
    return { frames, raw: bytes.subarray(0, at) };
  }

  /** Forgets a frame that has come in part: a new connection begins with a new one. */
  reset(): void {
    this.#rest = Buffer.alloc(0);
  }
}
