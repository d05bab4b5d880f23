import { closeSync, fstatSync, openSync, renameSync, writeSync } from 'node:fs';

/**
 * A log file that never grows beyond its limit: a full one becomes `<path>.1`, replacing the one before. A log that
 * cannot be written (full disk) loses lines, never the machine.
 */
export class RotatingLog {
  readonly #path: string;
  readonly #limit: number;
  #fd: number;
  #size: number;

  constructor(path: string, limit = 4 << 20) {
    this.#path = path;
    this.#limit = limit;
    this.#fd = openSync(path, 'a', 0o600);
    this.#size = fstatSync(this.#fd).size;
  }

  write(bytes: Buffer): void {
    try {
      if (this.#size >= this.#limit) this.#rotate();
      let rest = bytes;
      while (rest.length > 0) {
        const piece = rest.subarray(0, Math.max(1, this.#limit - this.#size));
        writeSync(this.#fd, piece);
        this.#size += piece.length;
        rest = rest.subarray(piece.length);
        if (rest.length > 0) this.#rotate();
      }
    } catch {
      // See above.
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  #rotate(): void {
    renameSync(this.#path, `${this.#path}.1`);
    closeSync(this.#fd);
    this.#fd = openSync(this.#path, 'a', 0o600);
    this.#size = 0;
  }
}
