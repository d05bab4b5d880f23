import { Server, ServerCredentials } from '@grpc/grpc-js';
import { rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { dirname } from 'node:path';

import {
  TshyveError,
  checkSocketPath,
  exists,
  isServed,
  listenPrivately,
  makePrivateDirectory,
} from '../../base/index.js';
import { HealthService, healthMethods } from '../../grpc/index.js';
import type { DriverFactory } from '../../machine/driver.js';
import { MachineDriverService } from './generated/machine_driver.js';
import { machineDriverMethods } from './machine-driver.js';

/**
 * Serves the machine driver over gRPC on a unix socket until SIGTERM or SIGINT. The socket's folder is made if it is
 * missing; only its owner may connect.
 * @param address `unix:/PATH`
 * @throws TshyveError `usage` for another address, `already-exists` when somebody serves there
 */
export async function serveGrpc(address: string | undefined, createDriver: DriverFactory): Promise<void> {
  const path = /^unix:(\/.+)$/.exec(address ?? '')?.[1];
  if (path === undefined) {
    throw new TshyveError('usage', '--grpc needs the address of a socket: --grpc unix:/ABSOLUTE/PATH/driver.sock');
  }
  checkSocketPath(path);
  if (!(await exists(dirname(path)))) await makePrivateDirectory(dirname(path));
  if (await isServed(path)) throw new TshyveError('already-exists', `Another process serves at ${path}.`);
  await rm(path, { force: true });
  const server = new Server();
  const debug = (line: string) => process.stderr.write(`${line}\n`);
  server.addService(MachineDriverService, machineDriverMethods(createDriver, debug));
  server.addService(HealthService, healthMethods);
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  const listener = createServer((socket) => {
    injector.injectConnection(socket);
  });
  await listenPrivately(listener, path);
  process.stdout.write(`unix:${path}\n`);
  await new Promise<void>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const)
      process.once(signal, () => {
        resolve();
      });
  });
  listener.close();
  // Cancels what runs; the operations clean up after themselves.
  server.forceShutdown();
  await rm(path, { force: true });
}
