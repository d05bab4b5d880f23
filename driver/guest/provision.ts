import { readFile } from 'node:fs/promises';
import { request } from 'node:https';

import { type Log, TshyveError, messageOf, sleep } from '../base/index.js';
import type { ClientCertificates } from './certificates.js';
import { shellQuote } from './shell.js';
import type { GuestSession } from './ssh-session.js';

const STATE = '/var/lib/boot2docker';
const DOCKER_TIMEOUT_MS = 180_000;
const RETRY_PAUSE_MS = 100;

export interface DockerEndpoint {
  readonly host: string;
  readonly port: number;
  readonly certificates: ClientCertificates;
}

/**
 * Sets up Docker in a guest as docker-machine's boot2docker provisioner does, in one SSH command: host name, TLS
 * certificates, profile, start. For machines that no docker-machine provisions.
 */
export async function provisionDocker(
  session: GuestSession,
  machineName: string,
  files: { ca: string; serverCertificate: string; serverKey: string },
  endpoint: DockerEndpoint,
  operation: { readonly log: Log; readonly signal: AbortSignal },
): Promise<string> {
  const [ca, certificate, key] = await Promise.all(
    [files.ca, files.serverCertificate, files.serverKey].map((path) => readFile(path, 'utf8')),
  );
  const profile = [
    `EXTRA_ARGS='\n--label provider=tshyve\n\n'`,
    `CACERT=${STATE}/ca.pem`,
    `DOCKER_HOST='-H tcp://0.0.0.0:${String(endpoint.port)}'`,
    'DOCKER_STORAGE=overlay2',
    'DOCKER_TLS=auto',
    `SERVERKEY=${STATE}/server-key.pem`,
    `SERVERCERT=${STATE}/server.pem`,
    '',
  ].join('\n');
  const name = shellQuote(machineName);
  const put = (path: string, text: string | undefined) =>
    `printf %s ${shellQuote(text ?? '')} > ${STATE}/${path}.new && mv ${STATE}/${path}.new ${STATE}/${path}`;
  const script = [
    'set -eu',
    'umask 077',
    `mkdir -p ${STATE}/etc`,
    `sethostname ${name}`,
    `echo ${name} > ${STATE}/etc/hostname`,
    put('ca.pem', ca),
    put('server.pem', certificate),
    put('server-key.pem', key),
    // Last: a profile says that the rest is in place.
    put('profile', profile),
    'sync',
    'systemctl --no-block restart docker.service',
  ].join('\n');
  await session.check('sudo sh -s', { input: script });
  operation.log.info('Waiting for Docker');
  return waitForDocker(endpoint, operation.signal);
}

/**
 * Waits until the Docker API answers over TLS.
 * @returns Docker's version, e.g. `20.10.24+dfsg1`
 */
export async function waitForDocker(endpoint: DockerEndpoint, signal: AbortSignal): Promise<string> {
  const [ca, cert, key] = await Promise.all(
    [endpoint.certificates.ca, endpoint.certificates.certificate, endpoint.certificates.key].map((path) =>
      readFile(path),
    ),
  );
  const deadline = performance.now() + DOCKER_TIMEOUT_MS;
  for (;;) {
    try {
      return await dockerVersion(endpoint, { ca, cert, key }, signal);
    } catch (error) {
      if (signal.aborted) throw new TshyveError('cancelled', 'Waiting for Docker was cancelled.', { cause: error });
      if (performance.now() > deadline) {
        throw new TshyveError(
          'timeout',
          `Docker does not answer at ${endpoint.host}:${String(endpoint.port)} (${messageOf(error)}). "sudo journalctl -u docker" in the guest says why.`,
          { cause: error },
        );
      }
    }
    await sleep(RETRY_PAUSE_MS, signal);
  }
}

function dockerVersion(
  endpoint: DockerEndpoint,
  tls: Record<'ca' | 'cert' | 'key', Buffer | undefined>,
  signal: AbortSignal,
): Promise<string> {
  return new Promise((resolve, reject) => {
    // The first connection starts Docker and waits for it (socket activation), hence the long timeout.
    const options = {
      host: endpoint.host,
      port: endpoint.port,
      path: '/version',
      agent: false,
      timeout: 60_000,
      signal,
    };
    const call = request({ ...options, ...tls }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        if (text.length < 1 << 20) text += chunk;
      });
      response.on('error', reject);
      response.on('end', () => {
        try {
          const { Version } = JSON.parse(text) as { Version?: unknown };
          if (typeof Version === 'string') resolve(Version);
          else reject(new Error(`an answer without a version (status ${String(response.statusCode)})`));
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        }
      });
    });
    call.on('timeout', () => call.destroy(new Error('no answer within 60 s')));
    call.on('error', reject);
    call.end();
  });
}
