import { type ErrorKind, TshyveError, codeOf, messageOf } from '../../base/index.js';

/** Codes of native/src/base/result.h, as native/src/napi/session.cc spells them. */
const kinds: Readonly<Record<string, ErrorKind>> = {
  'invalid-argument': 'usage',
  unsupported: 'precondition',
  permission: 'precondition',
  'not-found': 'not-found',
  busy: 'busy',
  'no-space': 'no-space',
  host: 'hypervisor',
  guest: 'guest',
  corrupt: 'invalid-config',
  state: 'not-running',
};

/** An error of the core as one of ours. @param what failed, as the begin of a sentence, e.g. "Cannot pause the machine" */
export function nativeError(what: string, error: unknown): TshyveError {
  if (TshyveError.is(error)) return error;
  return new TshyveError(
    kinds[codeOf(error) ?? ''] ?? 'hypervisor',
    `${what}: ${asSentence(messageOf(error), false)}`,
    {
      cause: error,
    },
  );
}

/** The core's texts come without a full stop, its exit details without a capital. */
export function asSentence(text: string, capital = true): string {
  const first = text.charAt(0);
  return `${capital ? first.toUpperCase() : first}${text.slice(1).replace(/\.$/, '')}.`;
}
