/** Where an operation tells what it does. `info` is progress for people, `debug` is for finding faults. */
export interface Log {
  info(line: string): void;
  debug(line: string): void;
}

/** Keeps silent. */
export const noLog: Log = { info: () => undefined, debug: () => undefined };
