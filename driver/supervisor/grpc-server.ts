import {
  Metadata,
  Server,
  ServerCredentials,
  type ServerWritableStream,
  type handleUnaryCall,
  type sendUnaryData,
} from '@grpc/grpc-js';
import type { Socket } from 'node:net';

import { messageOf } from '../base/index.js';
import { HealthCheckResponse_ServingStatus, type HealthServer, HealthService } from './generated/health.js';
import {
  type Event,
  type SupervisorServer,
  SupervisorService,
  type WatchEventsRequest,
} from './generated/supervisor.js';
import { kindOf, kindTrailer, statusCode } from './grpc-status.js';
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
    watchEvents: (call: ServerWritableStream<WatchEventsRequest, Event>) => {
      const send = (event: MachineEvent) => {
        call.write(wireEvent(event));
      };
      for (const event of supervisor.status().events) send(event);
      const end = () => {
        call.end();
      };
      supervisor.on('event', send);
      supervisor.once('gone', end);
      call.on('cancelled', () => {
        supervisor.off('event', send);
        supervisor.off('gone', end);
      });
    },
  };
}

const healthMethods: HealthServer = {
  check: unary(() => ({ status: HealthCheckResponse_ServingStatus.SERVING })),
};

function wireEvent(event: MachineEvent): Event {
  return { name: event.name, argument: event.argument, atMs: BigInt(event.atMs) };
}

/** Turns a function into a gRPC handler whose errors carry our kinds. */
function unary<Request, Response>(
  answer: (request: Request) => Response | Promise<Response>,
): handleUnaryCall<Request, Response> {
  return (call, callback: sendUnaryData<Response>) => {
    void (async () => {
      try {
        callback(null, await answer(call.request));
      } catch (error) {
        const metadata = new Metadata();
        metadata.set(kindTrailer, kindOf(error));
        callback({ code: statusCode(error), details: messageOf(error), metadata });
      }
    })();
  };
}
