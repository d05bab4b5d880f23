import { type AddressInfo, createServer } from 'node:net';

import { TshyveError } from '../../base/index.js';
import type { NetworkSpec, PortForward, PortForwardSpec } from '../vm-spec.js';
import type { QmpClient } from './qmp.js';

const EPHEMERAL_TRIES = 16;

/**
 * Adds the port forwards of a machine. QEMU itself binds, so nobody can take a port between a test and its use; a
 * port that is taken leads to the next candidate.
 * @throws TshyveError `precondition` that names the port when no candidate can be bound
 */
export async function addForwards(qmp: QmpClient, network: NetworkSpec): Promise<PortForward[]> {
  // Elsewhere the machine has an address of its own.
  if (network.mode !== 'user') return [];
  const forwards: PortForward[] = [];
  for (const spec of network.forwards) forwards.push(await addForward(qmp, network.hostAddress, spec));
  return forwards;
}

async function addForward(qmp: QmpClient, hostAddress: string, spec: PortForwardSpec): Promise<PortForward> {
  const tried: number[] = [];
  for (const candidate of spec.hostPorts) {
    const tries = candidate === 0 ? EPHEMERAL_TRIES : 1;
    for (let attempt = 0; attempt < tries; attempt++) {
      const hostPort = candidate === 0 ? await freePort(hostAddress) : candidate;
      // The monitor reports success by silence and failure as text.
      const answer = await qmp.monitor(
        `hostfwd_add net0 tcp:${hostAddress}:${String(hostPort)}-:${String(spec.guestPort)}`,
      );
      if (answer === '') return { name: spec.name, guestPort: spec.guestPort, hostAddress, hostPort };
      tried.push(hostPort);
    }
  }
  throw new TshyveError(
    'precondition',
    `Cannot forward ${hostAddress}:${tried.join(' or ')} to the machine's ${spec.name} port: it is taken or not permitted. Stop the program that listens there ("ss -ltnp" names it) or choose another port.`,
  );
}

/** A port that was free a moment ago. */
function freePort(hostAddress: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen({ host: hostAddress, port: 0 }, () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => {
        resolve(port);
      });
    });
  });
}
