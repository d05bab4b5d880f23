/** Seconds after which a step shows how long it has taken. */
const FIRST_TICK_SECONDS = 2;

/** Tells on standard error what is going on; on a terminal, a step that takes long shows its seconds. */
export class Progress {
  readonly #ticks = process.stderr.isTTY;
  #timer: NodeJS.Timeout | undefined;

  say(line: string): void {
    clearInterval(this.#timer);
    if (!this.#ticks) {
      process.stderr.write(`${line}\n`);
      return;
    }
    // The line feed comes last, so that whatever else is written starts on a line of its own.
    process.stderr.write(`\r\x1b[K${line}\n`);
    const started = performance.now();
    this.#timer = setInterval(() => {
      const seconds = Math.round((performance.now() - started) / 1000);
      if (seconds >= FIRST_TICK_SECONDS) process.stderr.write(`\r\x1b[K  ${String(seconds)} s\r`);
    }, 1000);
    this.#timer.unref();
  }
}
