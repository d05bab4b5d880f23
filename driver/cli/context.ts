import { type ErrorKind, type Log, TshyveError, messageOf, tshyveHome } from '../base/index.js';
import { resolve } from 'node:path';

import { MachineStore, type Operation } from '../machine/index.js';
import { Progress } from './progress.js';

/** Exit codes, documented in `tshyve --help`. */
const exitCodes: Partial<Record<ErrorKind, number>> = {
  usage: 2,
  'not-found': 3,
  'already-exists': 4,
  'not-running': 5,
  busy: 6,
  precondition: 7,
  'no-space': 8,
  timeout: 9,
  cancelled: 130,
};

/** What every sub-command gets. */
export interface Context {
  readonly store: MachineStore;
  readonly operation: Operation;
}

/** Makes commander's action of a sub-command: gives it the context and reports its errors. */
export type Action = (
  run: (context: Context, ...args: never[]) => Promise<void>,
) => (...args: unknown[]) => Promise<void>;

/** Opens the store and makes Ctrl-C end the running operation cleanly; a second one ends the process. */
export function makeContext(options: { storagePath?: string | undefined; debug?: boolean | undefined }): Context {
  const abort = new AbortController();
  const progress = new Progress();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (abort.signal.aborted) process.exit(130);
      progress.say('Stopping (again to quit at once)');
      abort.abort();
    });
  }
  const log: Log = {
    info: (line) => {
      progress.say(line);
    },
    debug: (line) => {
      if (options.debug === true) progress.say(`debug: ${line}`);
    },
  };
  return {
    store: new MachineStore(resolve(options.storagePath ?? tshyveHome())),
    operation: { log, signal: abort.signal },
  };
}

/** Shows an error and ends with its exit code. */
export function fail(error: unknown, debug: boolean): never {
  process.stderr.write(`tshyve: ${messageOf(error)}\n`);
  if ((debug || !TshyveError.is(error)) && error instanceof Error) process.stderr.write(`${error.stack ?? ''}\n`);
  process.exit(TshyveError.is(error) ? (exitCodes[error.kind] ?? 1) : 1);
}
