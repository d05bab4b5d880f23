import { TshyveError } from '../base/index.js';
import { ensureClientCertificates, issueServerCertificate, provisionDocker } from '../guest/index.js';
import type { CreateFlag, FlagValue, TshyveDriver } from '../machine/index.js';
import type { Context } from './context.js';

/** `tshyve create NAME`: makes a machine and sets up Docker in it. A failed create leaves nothing behind. */
export async function create(context: Context, name: string, flags: ReadonlyMap<string, FlagValue>): Promise<void> {
  const { store, operation } = context;
  const driver = await store.prepare(name);
  driver.setConfigFromFlags(flags);
  const started = performance.now();
  operation.log.info(`Creating machine "${name}"`);
  await driver.preCreateCheck(operation);
  try {
    await store.save(driver);
    // Certificates do not depend on the guest: make them while it boots.
    const [certificates] = await Promise.all([ensureClientCertificates(store.certificates), driver.create(operation)]);
    await store.save(driver);
    const ip = await driver.getIP();
    const server = await issueServerCertificate(
      certificates,
      [ip, 'localhost', '127.0.0.1', name],
      store.directory(name),
    );
    operation.log.info('Setting up Docker');
    const version = await provision(driver, name, ip, certificates, server, operation);
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

async function provision(
  driver: TshyveDriver,
  name: string,
  ip: string,
  certificates: Awaited<ReturnType<typeof ensureClientCertificates>>,
  server: { certificate: string; key: string },
  operation: Context['operation'],
): Promise<string> {
  const session = await driver.openSession(operation);
  try {
    const port = Number(new URL(await driver.getURL()).port);
    const files = { ca: certificates.ca, serverCertificate: server.certificate, serverKey: server.key };
    return await provisionDocker(session, name, files, { host: ip, port, certificates }, operation);
  } finally {
    session.close();
  }
}

/** Reads one create flag's text from the command line or environment. @throws TshyveError `usage` */
export function parseFlag(flag: CreateFlag, text: string): FlagValue {
  switch (flag.kind) {
    case 'int':
      if (!/^-?\d{1,9}$/.test(text))
        throw new TshyveError('usage', `--${flag.name} needs a whole number, got "${text}".`);
      return Number(text);
    case 'bool':
      return text === 'true' || text === '1';
    case 'strings':
      return text === '' ? [] : text.split(',');
    case 'string':
      return text;
  }
}
