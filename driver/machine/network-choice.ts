import { TshyveError } from '../base/index.js';
import { type SocketChoice, parseSocketChoice, socketSyntax } from './socket-choice.js';

/** What `--tshyve-network` asks for. */
export type NetworkChoice =
  { readonly mode: 'user' } | { readonly mode: 'shared'; readonly network: string } | SocketChoice;

/** How the flag is written, for help and error texts. */
export const networkChoices = `user, shared, shared:NAME for another shared network, or ${socketSyntax}`;

/**
 * Parses the value of `--tshyve-network`: `user`, `shared` (the shared network of that name), `shared:NAME` or
 * `socket:…`.
 * @throws TshyveError `usage` that names the flag
 */
export function parseNetworkChoice(text: string): NetworkChoice {
  if (text === 'user') return { mode: 'user' };
  if (text === 'shared') return { mode: 'shared', network: 'shared' };
  if (text.startsWith('socket:')) return parseSocketChoice(text);
  const named = /^shared:([a-z0-9][a-z0-9-]{0,31})$/.exec(text)?.[1];
  if (named !== undefined) return { mode: 'shared', network: named };
  throw new TshyveError('usage', `--tshyve-network is "${text}": give ${networkChoices}.`);
}
