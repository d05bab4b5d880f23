import { isIPv4 } from 'node:net';

import { type Lease, macOfClientId, parseClientId } from './lease.js';

/**
 * /var/db/dhcpd_leases of macOS' bootpd: blocks in braces of `key=value` lines, octets in hex without leading zeros
 * (bootp's NICache.c and host_identifier.c). `hw_address` is the client identifier whenever the client sent one, so a
 * client with a DUID leaves no MAC anywhere. `declined` marks an address in conflict.
 */
export function parseBootpdLeases(text: string): Lease[] {
  const leases: Lease[] = [];
  let block: Map<string, string> | undefined;
  for (const line of text.split('\n')) {
    const trimmed = line.trim();
    if (trimmed === '{') block = new Map();
    else if (trimmed === '}') {
      const lease = block === undefined ? undefined : fromBlock(block);
      if (lease !== undefined) leases.push(lease);
      block = undefined;
    } else if (block !== undefined) {
      // A value may hold "=", a key without values has none.
      const equals = trimmed.indexOf('=');
      if (equals < 0) block.set(trimmed, '');
      else block.set(trimmed.slice(0, equals), trimmed.slice(equals + 1));
    }
  }
  // A block without its closing brace was being written: left out.
  return leases;
}

function fromBlock(block: ReadonlyMap<string, string>): Lease | undefined {
  const address = block.get('ip_address') ?? '';
  if (!isIPv4(address) || block.has('declined')) return undefined;
  const identifier = block.get('identifier') ?? block.get('hw_address') ?? '';
  const clientId = parseClientId(identifier.replace(',', ':'));
  const hardware = parseClientId((block.get('hw_address') ?? '').replace(',', ':'));
  return {
    address,
    mac: hardware === undefined ? undefined : macOfClientId(hardware),
    clientId,
    name: block.get('name'),
    expiresAt: expiry(block.get('lease')),
  };
}

/** Absolute seconds in hex; -1 stands for a lease without end. A block without it is no lease yet. */
function expiry(text: string | undefined): number {
  if (text === undefined || !/^(0x)?[0-9a-f]{1,16}$/i.test(text)) return 0;
  const seconds = BigInt.asIntN(64, BigInt(text.toLowerCase().startsWith('0x') ? text : `0x${text}`));
  return seconds < 0n ? Infinity : Number(seconds) * 1000;
}
