/** One address that a DHCP server says it has given away, whatever its file format. */
export interface Lease {
  /** IPv4 address, dotted. */
  readonly address: string;
  /** Hardware address `aa:bb:cc:dd:ee:ff`; undefined where the server noted only a client identifier. */
  readonly mac: string | undefined;
  /** DHCP client identifier (option 61, RFC 2132 9.14) as hex octets with its type: `01:aa:bb:cc:dd:ee:ff`. */
  readonly clientId: string | undefined;
  /** Host name (option 12). Two machines may give the same one: never proof of anything. */
  readonly name: string | undefined;
  /** Milliseconds since the epoch; Infinity for a lease that never ends. */
  readonly expiresAt: number;
}

/** A file format: its leases, those the server wrote last first. Never throws: what does not parse is left out. */
export type LeaseParser = (text: string) => Lease[];

/**
 * Octets as servers print them: `a:3:c5`, `0A-03-C5`, with dropped zeros.
 * @returns lower-case octets of two digits, or undefined
 */
export function parseOctets(text: string): string[] | undefined {
  const parts = text.trim().split(/[:-]/);
  if (!parts.every((part) => /^[0-9a-f]{1,2}$/i.test(part))) return undefined;
  return parts.map((part) => part.toLowerCase().padStart(2, '0'));
}

/** @returns a MAC address in its canonical form, or undefined */
export function parseMac(text: string): string | undefined {
  const octets = parseOctets(text);
  return octets?.length === 6 ? octets.join(':') : undefined;
}

/** @returns the octets of a client identifier in canonical form, or undefined */
export function parseClientId(text: string): string | undefined {
  const octets = parseOctets(text);
  // Option 61 has at least two octets and its length is one octet.
  return octets !== undefined && octets.length >= 2 && octets.length <= 255 ? octets.join(':') : undefined;
}

/** Octets (numbers) of a client identifier or hardware address, as JSON files have them. */
export function octetsOf(value: unknown): string | undefined {
  if (!Array.isArray(value) || value.length === 0 || value.length > 255) return undefined;
  const octets: string[] = [];
  for (const octet of value as unknown[]) {
    if (typeof octet !== 'number' || !Number.isInteger(octet) || octet < 0 || octet > 255) return undefined;
    octets.push(octet.toString(16).padStart(2, '0'));
  }
  return octets.join(':');
}

/** `01:` and a MAC: the client identifier of most clients (RFC 2132 9.14: type 1 is Ethernet). */
export function macOfClientId(clientId: string): string | undefined {
  return /^01(?::[0-9a-f]{2}){6}$/.test(clientId) ? clientId.slice(3) : undefined;
}

/**
 * The MAC inside an RFC 4361 identifier (`ff`, IAID, DUID), for the DUID kinds that carry one: DUID-LLT and DUID-LL of
 * hardware type Ethernet (RFC 8415 11.2, 11.4). systemd's DUID-EN carries none.
 */
export function macOfDuid(clientId: string): string | undefined {
  const octets = clientId.split(':');
  if (octets[0] !== 'ff') return undefined;
  const duid = octets.slice(5);
  const kind = duid.slice(0, 4).join('');
  if (kind === '00010001' && duid.length === 14) return duid.slice(8).join(':');
  if (kind === '00030001' && duid.length === 10) return duid.slice(4).join(':');
  return undefined;
}
