import { createSocket } from 'node:dgram';
import { type AddressInfo, createServer } from 'node:net';

import { TshyveError } from '../../base/index.js';
import type { PortBinder } from '../forwards.js';
import type { PortForward, Protocol } from '../vm-spec.js';
import type { QmpClient } from './qmp.js';

const EPHEMERAL_TRIES = 16;

/** Binds ports by QEMU's own user network. */
export function qemuPorts(qmp: QmpClient): PortBinder {
  return {
    bind: async (forward) => {
      const any = forward.hostPort === 0;
      let answer = '';
      for (let attempt = 0; attempt < (any ? EPHEMERAL_TRIES : 1); attempt++) {
        const hostPort = any ? await freePort(forward.hostAddress, forward.protocol) : forward.hostPort;
        // The monitor reports success by silence and failure as text.
        answer = await qmp.monitor(
          `hostfwd_add net0 ${hostSide({ ...forward, hostPort })}-:${String(forward.guestPort)}`,
        );
        if (answer === '') return hostPort;
      }
      throw new TshyveError('busy', `QEMU: ${answer}`);
    },
    unbind: async (forward) => {
      const answer = await qmp.monitor(`hostfwd_remove net0 ${hostSide(forward)}`);
      if (answer.includes('not found') || answer.includes('invalid'))
        throw new TshyveError('not-found', `QEMU: ${answer}`);
    },
  };
}

function hostSide({ protocol, hostAddress, hostPort }: PortForward): string {
  return `${protocol}:${hostAddress}:${String(hostPort)}`;
}

/** A port that was free a moment ago. */
function freePort(hostAddress: string, protocol: Protocol): Promise<number> {
  return new Promise((resolve, reject) => {
    if (protocol === 'udp') {
      const socket = createSocket('udp4');
      socket.once('error', reject);
      socket.bind(0, hostAddress, () => {
        const { port } = socket.address();
        socket.close(() => {
          resolve(port);
        });
      });
      return;
    }
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
