import { X509Certificate, createPrivateKey, webcrypto } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';

import { TshyveError, exists, fileError, lockFile, writeFileAtomic } from '../base/index.js';

/** Names as docker-machine's `certs` folder has them. */
export interface ClientCertificates {
  readonly ca: string;
  readonly caKey: string;
  readonly certificate: string;
  readonly key: string;
}

const VALID_DAYS = 1080;
const DAY_MS = 86_400_000;
/** The guest's clock may run a little behind. */
const BACKDATE_MS = 5 * 60_000;
const LOCK_TIMEOUT_MS = 30_000;
const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

async function x509() {
  await import('reflect-metadata');
  const library = await import('@peculiar/x509');
  library.cryptoProvider.set(webcrypto as never);
  return library;
}

/** The paths of a certificate folder. */
export function certificatePaths(directory: string): ClientCertificates {
  return {
    ca: join(directory, 'ca.pem'),
    caKey: join(directory, 'ca-key.pem'),
    certificate: join(directory, 'cert.pem'),
    key: join(directory, 'key.pem'),
  };
}

/**
 * Makes a CA and a client certificate once per store, in docker-machine's layout. Existing ones are kept.
 * @throws TshyveError `precondition` when they are not valid today
 */
export async function ensureClientCertificates(directory: string): Promise<ClientCertificates> {
  const paths = certificatePaths(directory);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const lock = await lockFile(join(directory, '.lock'), { timeoutMs: LOCK_TIMEOUT_MS });
  try {
    const complete = await Promise.all(Object.values(paths).map((path: string) => exists(path)));
    if (complete.every(Boolean)) {
      await requireValidToday(paths.ca, directory);
      await requireValidToday(paths.certificate, directory);
      return paths;
    }
    const {
      X509CertificateGenerator,
      BasicConstraintsExtension,
      KeyUsagesExtension,
      KeyUsageFlags,
      ExtendedKeyUsageExtension,
      ExtendedKeyUsage,
    } = await x509();
    const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
    const ca = await X509CertificateGenerator.createSelfSigned({
      ...validity(),
      serialNumber: serialNumber(),
      name: 'CN=tshyve-ca',
      keys: keys,
      signingAlgorithm: algorithm,
      extensions: [
        new BasicConstraintsExtension(true, undefined, true),
        new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      ],
    });
    const client = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
    const certificate = await X509CertificateGenerator.create({
      ...validity(),
      serialNumber: serialNumber(),
      subject: 'CN=tshyve-client',
      issuer: ca.subject,
      publicKey: client.publicKey,
      signingKey: keys.privateKey,
      signingAlgorithm: algorithm,
      extensions: [
        new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
        new ExtendedKeyUsageExtension([ExtendedKeyUsage.clientAuth]),
      ],
    });
    await writeFileAtomic(paths.caKey, await privateKeyPem(keys.privateKey));
    await writeFileAtomic(paths.key, await privateKeyPem(client.privateKey));
    await writeFileAtomic(paths.certificate, `${certificate.toString('pem')}\n`, 0o644);
    // Last: the set counts as complete when all four are there.
    await writeFileAtomic(paths.ca, `${ca.toString('pem')}\n`, 0o644);
    return paths;
  } finally {
    await lock.release();
  }
}

/** Issues a server certificate for these names and addresses, into `server.pem` and `server-key.pem`. */
export async function issueServerCertificate(
  ca: ClientCertificates,
  names: readonly string[],
  directory: string,
): Promise<{ certificate: string; key: string }> {
  const library = await x509();
  const issuer = new library.X509Certificate(await readFile(ca.ca, 'utf8'));
  const signing = await importSigningKey(await readFile(ca.caKey));
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const certificate = await library.X509CertificateGenerator.create({
    ...validity(),
    serialNumber: serialNumber(),
    subject: 'CN=tshyve-machine',
    issuer: issuer.subject,
    publicKey: keys.publicKey,
    signingKey: signing.key,
    signingAlgorithm: signing.algorithm,
    extensions: [
      new library.KeyUsagesExtension(library.KeyUsageFlags.digitalSignature, true),
      new library.ExtendedKeyUsageExtension([library.ExtendedKeyUsage.serverAuth]),
      new library.SubjectAlternativeNameExtension(
        names.map((value) => ({ type: isIP(value) === 0 ? 'dns' : 'ip', value }) as const),
      ),
    ],
  });
  const paths = { certificate: join(directory, 'server.pem'), key: join(directory, 'server-key.pem') };
  await writeFileAtomic(paths.key, await privateKeyPem(keys.privateKey));
  await writeFileAtomic(paths.certificate, `${certificate.toString('pem')}\n`, 0o644);
  return paths;
}

/** The CA is ours (EC, PKCS#8), or docker-machine's when it came first to the store (RSA, PKCS#1). */
async function importSigningKey(pem: Buffer) {
  const key = createPrivateKey(pem);
  const signing =
    key.asymmetricKeyType === 'rsa' ? ({ name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' } as const) : algorithm;
  const der = key.export({ type: 'pkcs8', format: 'der' });
  return { key: await webcrypto.subtle.importKey('pkcs8', der, signing, false, ['sign']), algorithm: signing };
}

/** A clock that was wrong when they were made, or is wrong now, shows here and not as a failed handshake much later. */
async function requireValidToday(path: string, directory: string): Promise<void> {
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(await readFile(path));
  } catch (error) {
    throw fileError(`read the certificate ${path}`, error);
  }
  const now = Date.now();
  if (Date.parse(certificate.validFrom) <= now && now < Date.parse(certificate.validTo)) return;
  throw new TshyveError(
    'precondition',
    `The certificate ${path} is valid from ${certificate.validFrom} to ${certificate.validTo}, and this host's clock says ${new Date(now).toUTCString()}. Correct the clock; if it is right, delete ${directory} and set up each machine again with "tshyve provision".`,
  );
}

async function privateKeyPem(key: webcrypto.CryptoKey): Promise<string> {
  const der = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', key));
  const lines = der.toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN PRIVATE KEY-----\n${lines.join('\n')}\n-----END PRIVATE KEY-----\n`;
}

function validity(): { notBefore: Date; notAfter: Date } {
  const now = Date.now();
  return { notBefore: new Date(now - BACKDATE_MS), notAfter: new Date(now + VALID_DAYS * DAY_MS) };
}

/** Positive and random, at most 20 octets (RFC 5280 4.1.2.2). */
function serialNumber(): string {
  const bytes = Buffer.from(webcrypto.getRandomValues(new Uint8Array(16)));
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40;
  return bytes.toString('hex');
}
