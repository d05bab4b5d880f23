import { isAbsolute } from 'node:path';
import { createInterface } from 'node:readline';

import { TshyveError, messageOf } from '../base/index.js';
import { type Operation, TshyveDriver } from '../machine/index.js';
import type { Context } from './context.js';

type Call = (driver: TshyveDriver, operation: Operation) => Promise<unknown>;

/** What a client may call: tshyve.driver.v1's methods, and what only minikube asks for. */
const calls: Readonly<Record<string, Call>> = {
  'pre-create-check': (driver, operation) => driver.preCreateCheck(operation),
  create: (driver, operation) => driver.create(operation),
  start: (driver, operation) => driver.start(operation),
  stop: (driver, operation) => driver.stop(operation),
  restart: (driver, operation) => driver.restart(operation),
  kill: (driver, operation) => driver.kill(operation),
  remove: (driver, operation) => driver.remove(operation),
  state: (driver) => driver.getState(),
  ip: (driver) => driver.getIP(),
  url: (driver) => driver.getURL(),
  'ssh-port': (driver) => driver.getSSHPort(),
  host: (driver) => driver.hostAddress(),
};

export const callNames: readonly string[] = Object.keys(calls);

/**
 * `tshyve driver CALL`: one call of the machine driver for a client that keeps the machine's config itself. Reads one
 * line of JSON, `{"storePath", "machineName", "config"}`; writes JSON lines: any number of `{"line"}` (progress), then
 * `{"result", "config"}` (config as it is to be kept) or `{"error": {"kind", "message"}}`. The end of the input before
 * the answer cancels the call: the client is gone.
 */
export async function driverCall(context: Context, name: string): Promise<void> {
  const write = (answer: object) => process.stdout.write(`${JSON.stringify(answer)}\n`);
  const gone = new AbortController();
  const input = createInterface({ input: process.stdin });
  try {
    const call = calls[name];
    if (call === undefined) {
      throw new TshyveError('usage', `There is no driver call "${name}": give one of ${callNames.join(', ')}.`);
    }
    const request = await new Promise<string>((resolve) => {
      input.once('line', resolve);
      input.once('close', () => {
        gone.abort();
        resolve('');
      });
    });
    const driver = openDriver(request);
    const operation: Operation = {
      log: { ...context.operation.log, info: (line) => write({ line }) },
      signal: AbortSignal.any([context.operation.signal, gone.signal]),
    };
    const result = await call(driver, operation);
    write({ result: result ?? null, config: JSON.parse(driver.getConfigRaw()) as unknown });
  } catch (error) {
    write({ error: { kind: TshyveError.is(error) ? error.kind : 'internal', message: messageOf(error) } });
    process.exitCode = 1;
  } finally {
    input.close();
  }
}

/** @throws TshyveError `usage`, `invalid-config` */
function openDriver(line: string): TshyveDriver {
  let request: unknown;
  try {
    request = JSON.parse(line);
  } catch (error) {
    throw new TshyveError('usage', 'A driver call reads one line of JSON from standard input.', { cause: error });
  }
  const { storePath, machineName, config } = (request ?? {}) as Record<string, unknown>;
  if (typeof storePath !== 'string' || !isAbsolute(storePath) || typeof machineName !== 'string') {
    throw new TshyveError('usage', 'A driver call needs an absolute "storePath" and a "machineName".');
  }
  const driver = new TshyveDriver(machineName, storePath);
  if (config !== undefined) driver.setConfigRaw(JSON.stringify(config));
  if (driver.machineName !== machineName) {
    throw new TshyveError('usage', `"config" belongs to the machine "${driver.machineName}".`);
  }
  return driver;
}
