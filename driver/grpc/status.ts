import { type ServiceError, status } from '@grpc/grpc-js';

import { type ErrorKind, TshyveError, errorKinds, messageOf } from '../base/index.js';

/** Trailer that carries our own error kind beside gRPC's coarser code. */
export const kindTrailer = 'tshyve-error-kind';

const codes: Record<ErrorKind, status> = {
  usage: status.INVALID_ARGUMENT,
  'invalid-config': status.FAILED_PRECONDITION,
  precondition: status.FAILED_PRECONDITION,
  'not-found': status.NOT_FOUND,
  'already-exists': status.ALREADY_EXISTS,
  'not-running': status.FAILED_PRECONDITION,
  busy: status.ABORTED,
  'no-space': status.RESOURCE_EXHAUSTED,
  image: status.DATA_LOSS,
  hypervisor: status.UNAVAILABLE,
  guest: status.UNAVAILABLE,
  protocol: status.INVALID_ARGUMENT,
  timeout: status.DEADLINE_EXCEEDED,
  cancelled: status.CANCELLED,
  internal: status.INTERNAL,
};

/** The code of an error on gRPC. */
export function statusCode(error: unknown): status {
  return TshyveError.is(error) ? codes[error.kind] : status.INTERNAL;
}

/** The kind of anything thrown. */
export function kindOf(error: unknown): ErrorKind {
  return TshyveError.is(error) ? error.kind : 'internal';
}

/** What a failed call of a gRPC client means, as one of our errors. */
export function fromServiceError(error: ServiceError): TshyveError {
  const [kind] = error.metadata.get(kindTrailer);
  const known = errorKinds.find((candidate) => candidate === kind);
  return new TshyveError(
    known ?? (error.code === status.CANCELLED ? 'cancelled' : 'internal'),
    error.details === '' ? messageOf(error) : error.details,
    {
      cause: error,
    },
  );
}
