import { fstatSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';

/** libmachine reads with a scanner that gives up on lines of 64 KiB; stay well below. */
const MAX_LINE_BYTES = 60_000;
/** Bytes that may wait for a client that has stopped reading; more are dropped. */
const MAX_BACKLOG_BYTES = 1 << 20;

/**
 * Writes log lines to a pipe without ever blocking: process.stdout blocks on pipes, and a client that stopped reading
 * would then stall the heartbeat. A vanished reader is not an error.
 */
export class LineWriter {
  readonly #fd: number;
  readonly #socket: Socket | undefined;

  constructor(fd: number) {
    this.#fd = fd;
    const status = fstatSync(fd);
    if (status.isFIFO() || status.isSocket()) {
      this.#socket = new Socket({ fd, readable: false, writable: true });
      this.#socket.on('error', () => undefined);
      this.#socket.unref();
    }
  }

  /** Writes one line; line ends inside become separate lines, long lines are cut into pieces. */
  write(text: string): void {
    for (const line of text.split(/\r?\n/)) {
      const bytes = Buffer.from(line);
      for (let start = 0; start === 0 || start < bytes.length; start += MAX_LINE_BYTES) {
        this.#put(Buffer.concat([bytes.subarray(start, start + MAX_LINE_BYTES), Buffer.from('\n')]));
      }
    }
  }

  #put(bytes: Buffer): void {
    if (this.#socket === undefined) {
      try {
        writeSync(this.#fd, bytes);
      } catch {
        // A closed terminal or a full disk behind the redirection: logging must not end the operation.
      }
    } else if (this.#socket.writable && this.#socket.writableLength < MAX_BACKLOG_BYTES) {
      this.#socket.write(bytes);
    }
  }
}
