import { isIPv4 } from 'node:net';

import { type Lease, parseClientId, parseMac } from './lease.js';
import { isRecord, parseJson, textOf } from './json.js';

/**
 * /var/lib/libvirt/dnsmasq/<bridge>.status, a JSON array written by libvirt's leaseshelper, newest last. An empty file
 * is an empty array.
 */
export function parseLibvirtLeases(text: string): Lease[] {
  const rows = parseJson(text);
  if (!Array.isArray(rows)) return [];
  const leases: Lease[] = [];
  for (const row of rows as unknown[]) {
    if (!isRecord(row)) continue;
    const address = textOf(row['ip-address']);
    const expiry = row['expiry-time'];
    if (address === undefined || !isIPv4(address) || typeof expiry !== 'number') continue;
    leases.unshift({
      address,
      mac: parseMac(textOf(row['mac-address']) ?? ''),
      clientId: parseClientId(textOf(row['client-id']) ?? ''),
      name: textOf(row['hostname']),
      expiresAt: expiry === 0 ? Infinity : expiry * 1000,
    });
  }
  return leases;
}
