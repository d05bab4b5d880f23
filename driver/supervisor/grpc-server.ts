import { Server, ServerCredentials } from '@grpc/grpc-js';
import type { Socket } from 'node:net';

import { TshyveError } from '../base/index.js';
import { type Protocol, protocols } from '../hypervisor/index.js';
import { HealthService, healthMethods, streaming, unary } from '../grpc/index.js';
import { type Event, type SupervisorServer, SupervisorService } from './generated/supervisor.js';
import type { Supervisor } from './supervisor.js';
import type { MachineEvent } from './types.js';

/** Serves a supervisor over gRPC on connections that somebody else accepts (a socket with our own mode and checks). */
export function serveSupervisor(supervisor: Supervisor): (socket: Socket) => void {
  const server = new Server();
  server.addService(SupervisorService, supervisorMethods(supervisor));
  server.addService(HealthService, healthMethods);
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  return (socket) => {
    injector.injectConnection(socket);
  };
}

function supervisorMethods(supervisor: Supervisor): SupervisorServer {
  return {
    getStatus: unary(() => {
      const status = supervisor.status();
      return {
        ...status,
        forwards: [...status.forwards],
        startedAtMs: BigInt(status.startedAtMs),
        events: status.events.map(wireEvent),
      };
    }),
    stop: unary(async ({ timeoutMs }) => ({ forced: await supervisor.stop(timeoutMs) })),
    kill: unary(async () => {
      await supervisor.kill();
      return {};
    }),
    pause: unary(async () => {
      await supervisor.pause();
      return {};
    }),
    resume: unary(async () => {
      await supervisor.resume();
      return {};
    }),
    suspend: unary(async () => {
      await supervisor.suspend();
      return {};
    }),
    addForward: unary(({ name, protocol, hostPort, guestPort }) => {
      return supervisor.addForward({ name, protocol: parseProtocol(protocol), hostPorts: [hostPort], guestPort });
    }),
    removeForward: unary(async ({ protocol, hostPort }) => {
      await supervisor.removeForward({ protocol: parseProtocol(protocol), hostPort });
      return {};
    }),
    watchEvents: streaming((_request, write: (event: Event) => void, signal) => {
      return new Promise((resolve) => {
        const send = (event: MachineEvent) => {
          write(wireEvent(event));
        };
        const end = () => {
          supervisor.off('event', send);
          supervisor.off('gone', end);
          resolve();
        };
        for (const event of supervisor.status().events) send(event);
        supervisor.on('event', send);
        supervisor.once('gone', end);
        signal.addEventListener('abort', end, { once: true });
      });
    }),
  };
}

/** @throws TshyveError `usage` */
function parseProtocol(text: string): Protocol {
  const known = protocols.find((protocol) => protocol === text);
  if (known === undefined) throw new TshyveError('usage', `"${text}" is not tcp or udp.`);
  return known;
}

function wireEvent(event: MachineEvent): Event {
  return { name: event.name, argument: event.argument, atMs: BigInt(event.atMs) };
}
