import { isIPv4 } from 'node:net';

import { type Lease, macOfClientId, octetsOf } from './lease.js';
import { isRecord, parseJson, textOf } from './json.js';

/**
 * The leases of systemd-networkd's DHCP server: JSON at /var/lib/systemd/network/dhcp-server-lease/<interface> or
 * /run/systemd/netif/dhcp-server-lease/<interface>. Older versions lack the hardware address and the wall-clock expiry;
 * the boot-time one means nothing outside its boot, so such a lease counts as unlimited. Newest last.
 */
export function parseNetworkdLeases(text: string): Lease[] {
  const file = parseJson(text);
  const rows = isRecord(file) ? file['Leases'] : undefined;
  if (!Array.isArray(rows)) return [];
  const leases: Lease[] = [];
  for (const row of rows as unknown[]) {
    if (!isRecord(row)) continue;
    const address = textOf(row['AddressString']) ?? dotted(row['Address']);
    if (address === undefined || !isIPv4(address)) continue;
    const clientId = octetsOf(row['ClientId']);
    const expiry = row['ExpirationRealtimeUSec'];
    leases.unshift({
      address,
      mac: hardwareAddress(row) ?? (clientId === undefined ? undefined : macOfClientId(clientId)),
      clientId,
      name: textOf(row['Hostname']),
      // USEC_INFINITY does not survive as a double, but stays far beyond any date.
      expiresAt: typeof expiry === 'number' && expiry > 0 && expiry < 2 ** 63 ? expiry / 1000 : Infinity,
    });
  }
  return leases;
}

function dotted(value: unknown): string | undefined {
  return Array.isArray(value) && value.length === 4 ? value.map(String).join('.') : undefined;
}

/** @returns the MAC when the row says that the hardware is Ethernet (ARPHRD_ETHER, 1) or does not say */
function hardwareAddress(row: Readonly<Record<string, unknown>>): string | undefined {
  const type = row['HardwareAddressType'];
  const octets = octetsOf(row['HardwareAddress']);
  return (type === undefined || type === 1) && octets?.length === 17 ? octets : undefined;
}
