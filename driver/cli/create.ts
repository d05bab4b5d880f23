import { TshyveError } from '../base/index.js';
import {
  type ClientCertificates,
  ensureClientCertificates,
  issueServerCertificate,
  provisionDocker,
} from '../guest/index.js';
import type { CreateFlag, FlagValue, TshyveDriver } from '../machine/index.js';
import type { Context } from './context.js';

/**
 * `tshyve create NAME`: makes a machine and sets up Docker in it. A failed create leaves nothing behind.
 * @param flags what was said; the environment, by each flag's variable, says the rest
 */
export async function create(context: Context, name: string, flags: ReadonlyMap<string, FlagValue>): Promise<void> {
  const { store, operation } = context;
  const driver = await store.prepare(name);
  const unsaid = driver.createFlags().filter((flag) => !flags.has(flag.name));
  driver.setConfigFromFlags(new Map([...fromEnvironment(unsaid), ...flags]));
  const started = performance.now();
  operation.log.info(`Creating machine "${name}"`);
  await driver.preCreateCheck(operation);
  const certificates = await ensureClientCertificates(store.certificates);
  await store.claim(name);
  try {
    await store.save(driver);
    await driver.create(operation);
    await store.save(driver);
    const version = await setUpDocker(context, driver, certificates);
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    operation.log.info(`Machine "${name}" is ready after ${seconds} s: Docker ${version} at ${await driver.getURL()}`);
    operation.log.info(`Next: eval "$(tshyve env ${name})" && docker ps, or: tshyve ssh ${name}`);
  } catch (error) {
    operation.log.info('Removing what was made');
    const cleanUp = { ...operation, signal: new AbortController().signal };
    await driver.remove(cleanUp);
    await store.forget(name);
    throw error;
  }
}

/** `tshyve provision NAME`: issues new certificates for a running machine and sets up its Docker again. */
export async function provision(context: Context, driver: TshyveDriver): Promise<void> {
  await driver.getURL();
  await setUpDocker(context, driver, await ensureClientCertificates(context.store.certificates));
}

/** @returns Docker's version */
async function setUpDocker(
  { store, operation }: Context,
  driver: TshyveDriver,
  certificates: ClientCertificates,
): Promise<string> {
  const name = driver.machineName;
  const host = await driver.getIP();
  const port = Number(new URL(await driver.getURL()).port);
  const names = [host, 'localhost', '127.0.0.1', name];
  const server = await issueServerCertificate(certificates, names, store.directory(name));
  operation.log.info('Setting up Docker');
  const session = await driver.openSession(operation);
  try {
    const files = { ca: certificates.ca, serverCertificate: server.certificate, serverKey: server.key };
    return await provisionDocker(session, name, files, { host, port, certificates }, operation);
  } finally {
    session.close();
  }
}

/** @throws TshyveError `usage` */
function fromEnvironment(flags: readonly CreateFlag[]): Map<string, FlagValue> {
  const values = new Map<string, FlagValue>();
  for (const flag of flags) {
    const text = process.env[flag.envVar] ?? '';
    if (text !== '') values.set(flag.name, parseFlag(flag, text, flag.envVar));
  }
  return values;
}

/**
 * Reads one create flag's text from the command line or environment.
 * @param source how the user said it: `--cpus`, `TSHYVE_CPUS`
 * @throws TshyveError `usage`
 */
export function parseFlag(flag: CreateFlag, text: string, source: string): FlagValue {
  switch (flag.kind) {
    case 'int':
      if (!/^-?\d{1,9}$/.test(text)) throw new TshyveError('usage', `${source} needs a whole number, got "${text}".`);
      return Number(text);
    case 'bool':
      return text === 'true' || text === '1';
    case 'strings':
      return text === '' ? [] : text.split(',');
    case 'string':
      return text;
  }
}
