import { TshyveError } from '../base/index.js';
import { type SocketChoice, parseSocketChoice, socketSyntax } from './socket-choice.js';

/** What `--tshyve-network` asks for. */
export type NetworkChoice =
  /** With others on the network of this name, if it has one; else alone. */
  | { readonly mode: 'user'; readonly network?: string }
  | { readonly mode: 'shared'; readonly network: string }
  /** The system's own, on macOS. */
  | { readonly mode: 'nat' }
  /** On the physical network of a host interface, on macOS. */
  | { readonly mode: 'bridged'; readonly interface: string }
  | SocketChoice;

/** How the flag is written, for help and error texts. */
export const networkChoices = `user, shared, nat (macOS), bridged:INTERFACE (macOS, e.g. bridged:en0), user:NAME or shared:NAME for one of several networks, or ${socketSyntax}`;

/**
 * Parses the value of `--tshyve-network`: `user`, `user:NAME`, `shared` (the shared network of that name), `shared:NAME`,
 * `nat`, `bridged:INTERFACE` or `socket:…`.
 * @throws TshyveError `usage` that names the flag
 */
export function parseNetworkChoice(text: string): NetworkChoice {
  if (text === 'user') return { mode: 'user' };
  if (text === 'nat') return { mode: 'nat' };
  if (text === 'shared') return { mode: 'shared', network: 'shared' };
  const [, bridged] = /^bridged:([A-Za-z0-9]{1,15})$/.exec(text) ?? [];
  if (bridged !== undefined) return { mode: 'bridged', interface: bridged };
  if (text.startsWith('socket:')) return parseSocketChoice(text);
  const [, mode, network] = /^(user|shared):([a-z0-9][a-z0-9-]{0,31})$/.exec(text) ?? [];
  if (mode !== undefined && network !== undefined) return { mode: mode === 'user' ? 'user' : 'shared', network };
  throw new TshyveError('usage', `--tshyve-network is "${text}": give ${networkChoices}.`);
}
