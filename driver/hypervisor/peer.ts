import type { SocketNetworkSpec } from './vm-spec.js';

/** What is wrong with a machine whose network is a program that has ended. */
export function peerAway({ path }: SocketNetworkSpec): string {
  return `The network peer at ${path} is away: start it again, the machine will be connected.`;
}
