/**
 * Every way an operation can fail, as a stable code. On gob only the message travels; on gRPC the kind becomes a
 * status code; on the command line it becomes an exit code.
 */
export const errorKinds = [
  'usage', // the caller's words are off: flags, names, arguments
  'invalid-config', // a stored or received configuration does not parse
  'precondition', // the host lacks something: a program, a permission, a free port
  'not-found', // no such machine, image or file
  'already-exists',
  'not-running', // the machine is down and the operation needs it up
  'busy', // another process works on the same machine
  'no-space',
  'image', // download, checksum or content of a guest image
  'hypervisor', // the virtual machine could not be launched or died
  'guest', // the guest does not answer or refused a command
  'protocol', // a peer sent bytes that break the contract
  'timeout',
  'cancelled',
  'internal',
] as const;
export type ErrorKind = (typeof errorKinds)[number];

// Bundles load this module once (chunk "base"), but tests and embedders may load two copies: brand, don't `instanceof`.
const brand = Symbol.for('tshyve.error');

/** An error whose message is a sentence for the user: what failed, why, and what to do about it. */
export class TshyveError extends Error {
  readonly kind: ErrorKind;
  readonly [brand] = true;

  constructor(kind: ErrorKind, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'TshyveError';
    this.kind = kind;
  }

  /** True for a TshyveError of any loaded copy of this module, optionally of one kind. */
  static is(error: unknown, kind?: ErrorKind): error is TshyveError {
    return (
      typeof error === 'object' &&
      error !== null &&
      brand in error &&
      (kind === undefined || (error as TshyveError).kind === kind)
    );
  }
}

/** The message of anything that was thrown, never empty. */
export function messageOf(error: unknown): string {
  if (error instanceof Error) return error.message === '' ? error.name : error.message;
  return String(error);
}

/** The `code` of a Node system error (`ENOENT`, `EADDRINUSE`, …), or undefined. */
export function codeOf(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/**
 * Wraps a failed file operation: a full disk gets its own kind so that callers and users can tell it apart.
 * @param what the operation in words, e.g. `write /path/config.json`
 */
export function fileError(what: string, error: unknown): TshyveError {
  if (TshyveError.is(error)) return error;
  const code = codeOf(error);
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new TshyveError('no-space', `Cannot ${what}: the disk is full. Free some space and try again.`, {
      cause: error,
    });
  }
  if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') {
    return new TshyveError(
      'precondition',
      `Cannot ${what}: permission denied (${code}). Check the owner and mode of the folder.`,
      { cause: error },
    );
  }
  return new TshyveError('internal', `Cannot ${what}: ${messageOf(error)}.`, { cause: error });
}
