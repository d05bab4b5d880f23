import {
  Metadata,
  type ServerWritableStream,
  type ServiceError,
  type StatusObject,
  type handleServerStreamingCall,
  type handleUnaryCall,
  type sendUnaryData,
} from '@grpc/grpc-js';

import { messageOf } from '../base/index.js';
import { HealthCheckResponse_ServingStatus, type HealthServer } from './generated/health.js';
import { kindOf, kindTrailer, statusCode } from './status.js';

/** What a failed call tells its client: code, sentence, and our own kind as a trailer. */
function failure(error: unknown): Pick<StatusObject, 'code' | 'details' | 'metadata'> {
  const metadata = new Metadata();
  metadata.set(kindTrailer, kindOf(error));
  return { code: statusCode(error), details: messageOf(error), metadata };
}

/** Turns a function into a gRPC handler whose errors carry our kinds. */
export function unary<Request, Response>(
  answer: (request: Request) => Response | Promise<Response>,
): handleUnaryCall<Request, Response> {
  return (call, callback: sendUnaryData<Response>) => {
    void (async () => {
      try {
        callback(null, await answer(call.request));
      } catch (error) {
        callback(failure(error));
      }
    })();
  };
}

/**
 * Turns a function that reports as it goes into a gRPC handler. The signal fires when the client cancels or is gone;
 * the stream ends when the function does.
 */
export function streaming<Request, Response>(
  run: (request: Request, send: (response: Response) => void, signal: AbortSignal) => Promise<void>,
): handleServerStreamingCall<Request, Response> {
  return (call: ServerWritableStream<Request, Response>) => {
    const abort = new AbortController();
    call.on('cancelled', () => {
      abort.abort();
    });
    call.on('error', () => undefined);
    run(call.request, (response) => call.write(response), abort.signal).then(
      () => {
        call.end();
      },
      (error: unknown) => {
        call.emit('error', failure(error) as ServiceError);
      },
    );
  };
}

/** Says SERVING: a process of ours that answers at all serves. */
export const healthMethods: HealthServer = {
  check: unary(() => ({ status: HealthCheckResponse_ServingStatus.SERVING })),
};
