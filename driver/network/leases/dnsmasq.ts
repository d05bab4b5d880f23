import { isIPv4 } from 'node:net';

import { type Lease, parseClientId, parseMac } from './lease.js';

/**
 * dnsmasq's lease file: lines `expiry mac address name client-id`, newest first, `*` for what is unknown, expiry 0 for
 * never (dnsmasq(8), --dhcp-leasefile). After a line `duid …` come IPv6 leases, whose second column is no MAC.
 */
export function parseDnsmasqLeases(text: string): Lease[] {
  const leases: Lease[] = [];
  // The last line counts only with its line feed: the file is rewritten in place.
  for (const line of text.split('\n').slice(0, -1)) {
    const [expiry = '', hardware = '', address = '', name = '*', clientId = '*', ...rest] = line.trim().split(/\s+/);
    if (expiry === 'duid') break;
    if (rest.length > 0 || !/^\d{1,15}$/.test(expiry) || !isIPv4(address)) continue;
    const seconds = Number(expiry);
    leases.push({
      address,
      // Other hardware than Ethernet has a type in front, e.g. `06-…`; such a machine is never ours.
      mac: hardware.includes('-') ? undefined : parseMac(hardware),
      clientId: clientId === '*' ? undefined : parseClientId(clientId),
      name: name === '*' ? undefined : name,
      expiresAt: seconds === 0 ? Infinity : seconds * 1000,
    });
  }
  return leases;
}
