import { join } from 'node:path';

import { TshyveError, checkSocketPath } from '../base/index.js';
import { VSOCK_MAX_PORT } from '../hypervisor/index.js';

const MAX_PORTS = 64;

/**
 * Parses the values of `--tshyve-vsock-port`; a port that was named twice is there once.
 * @throws TshyveError `usage` that names the flag, what is wrong and how it is written
 */
export function parseVsockPorts(texts: readonly string[]): number[] {
  const ports = texts.map((text) => {
    const port = /^[0-9]{1,10}$/.test(text) ? Number(text) : undefined;
    if (port !== undefined && port <= VSOCK_MAX_PORT) return port;
    throw new TshyveError(
      'usage',
      `--tshyve-vsock-port is "${text}": give a port from 0 to ${String(VSOCK_MAX_PORT)}, each with a flag of its own.`,
    );
  });
  const distinct = [...new Set(ports)];
  if (distinct.length <= MAX_PORTS) return distinct;
  throw new TshyveError(
    'usage',
    `--tshyve-vsock-port was given ${String(distinct.length)} times: at most ${String(MAX_PORTS)} are possible.`,
  );
}

/** @throws TshyveError `precondition` when the paths of sockets in this folder are longer than a unix socket's may be */
export function requireSocketRoom(directory: string): void {
  // The longest name that the core looks for.
  const longest = join(directory, `vsock.sock_${String(VSOCK_MAX_PORT)}`);
  try {
    checkSocketPath(longest);
  } catch (error) {
    throw new TshyveError(
      'precondition',
      `The path of the machine's folder is too long for the sockets of --tshyve-vsock-port (${longest}): choose a shorter name, or a shorter folder for all machines (TSHYVE_HOME, MACHINE_STORAGE_PATH).`,
      { cause: error },
    );
  }
}
