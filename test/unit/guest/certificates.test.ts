import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, expect, test } from 'vitest';

import { certificatePaths, ensureClientCertificates, issueServerCertificate } from '../../../driver/guest/index.js';

let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tshyve-test-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

const openssl = (...args: string[]) => execFileSync('openssl', args, { encoding: 'utf8', stdio: 'pipe' });

/** Writes a CA as docker-machine 0.16 makes it: an RSA key in PKCS#1 form. */
function makeRsaAuthority(paths: ReturnType<typeof certificatePaths>): void {
  openssl('genrsa', '-traditional', '-out', paths.caKey, '2048');
  openssl('req', '-x509', '-new', '-key', paths.caKey, '-subj', '/O=root', '-days', '9', '-out', paths.ca);
}

test.each(['our own EC', "docker-machine's RSA"])(
  'openssl accepts a server certificate of %s authority',
  async (kind) => {
    const store = join(folder, 'certs');
    mkdirSync(store);
    const paths = certificatePaths(store);
    if (kind.startsWith('our')) expect(await ensureClientCertificates(store)).toEqual(paths);
    else makeRsaAuthority(paths);
    const server = await issueServerCertificate(paths, ['127.64.1.2', 'localhost', 'dev'], folder);
    expect(openssl('verify', '-CAfile', paths.ca, '-purpose', 'sslserver', server.certificate)).toContain(': OK');
    expect(openssl('x509', '-in', server.certificate, '-noout', '-checkip', '127.64.1.2')).toContain('does match');
    const ofKey = openssl('pkey', '-in', server.key, '-pubout');
    expect(openssl('x509', '-in', server.certificate, '-noout', '-pubkey')).toBe(ofKey);
  },
);
