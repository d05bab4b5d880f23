import { connect } from 'node:net';

import { codeOf } from '../base/index.js';

/** What came of a look at a port. */
export type Contact =
  /** Somebody there has said something. */
  | { readonly answered: true }
  /** `code`: of the connection's error, e.g. `EHOSTUNREACH`; `ETIMEDOUT` when nothing came in time. */
  | { readonly answered: false; readonly code: string };

/**
 * Connects to a port whose server speaks first (sshd) and waits for its first byte. A connection alone proves nothing:
 * forwarded ports accept before there is anybody behind them.
 */
export function contact(host: string, port: number, timeoutMs: number, signal?: AbortSignal): Promise<Contact> {
  return new Promise((resolve) => {
    if (signal?.aborted === true) {
      resolve({ answered: false, code: 'ABORTED' });
      return;
    }
    const socket = connect({ host, port });
    const settle = (result: Contact) => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      socket.destroy();
      resolve(result);
    };
    const timer = setTimeout(() => {
      settle({ answered: false, code: 'ETIMEDOUT' });
    }, timeoutMs);
    const onAbort = () => {
      settle({ answered: false, code: 'ABORTED' });
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    socket.once('data', () => {
      settle({ answered: true });
    });
    socket.once('error', (error) => {
      settle({ answered: false, code: codeOf(error) ?? 'EUNKNOWN' });
    });
    socket.once('end', () => {
      settle({ answered: false, code: 'ECONNRESET' });
    });
  });
}
