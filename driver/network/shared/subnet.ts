import { createHash } from 'node:crypto';
import { isIPv4 } from 'node:net';

/** An IPv4 network, e.g. 192.168.71.0/24. */
export interface Subnet {
  /** Network address as a number of 32 bits. */
  readonly base: number;
  /** Prefix length, 0 to 32. */
  readonly length: number;
}

/** Private /24 networks we choose from (RFC 1918), few of which others use by default. */
const pools = ['192.168.64.0/18', '192.168.128.0/17', '10.197.0.0/16'].map((text) => required(text));
/**
 * Ranges that programs inside the guests use by default: Docker's bridges, Kubernetes' services and pods. A host need
 * not have a route for them.
 */
const reserved = ['172.17.0.0/16', '10.96.0.0/12', '10.244.0.0/16', '10.88.0.0/16', '192.168.64.0/24'].map((text) =>
  required(text),
);

/** Parses `a.b.c.d/n`, or an address alone as /32. @returns undefined for anything else */
export function parseSubnet(text: string): Subnet | undefined {
  const [address = '', prefix = '32', ...rest] = text.split('/');
  if (rest.length > 0 || !isIPv4(address) || !/^\d{1,2}$/.test(prefix) || Number(prefix) > 32) return undefined;
  const length = Number(prefix);
  return { base: (toNumber(address) & mask(length)) >>> 0, length };
}

function required(text: string): Subnet {
  const subnet = parseSubnet(text);
  if (subnet === undefined) throw new Error(`${text} is no subnet`);
  return subnet;
}

/** `192.168.71.0/24` */
export function formatSubnet(subnet: Subnet): string {
  return `${toText(subnet.base)}/${String(subnet.length)}`;
}

/** The n-th address of a network. @throws RangeError outside of it */
export function hostAt(subnet: Subnet, index: number): string {
  if (index < 0 || index >= 2 ** (32 - subnet.length))
    throw new RangeError(`no address ${String(index)} in the subnet`);
  return toText((subnet.base + index) >>> 0);
}

/** True when the two share an address. */
export function overlaps(a: Subnet, b: Subnet): boolean {
  const shorter = mask(Math.min(a.length, b.length));
  return (a.base & shorter) === (b.base & shorter);
}

/** True when an IPv4 address lies in a network. */
export function contains(subnet: Subnet, address: string): boolean {
  return isIPv4(address) && overlaps(subnet, { base: toNumber(address), length: 32 });
}

/** `255.255.255.0` */
export function netmask(subnet: Subnet): string {
  return toText(mask(subnet.length));
}

/**
 * A /24 that touches nothing the host routes to (its own networks, VPNs). The name decides where the search begins, so
 * that a network that comes back tends to get the same one.
 * @returns undefined when all are taken
 */
export function chooseSubnet(name: string, taken: readonly Subnet[]): Subnet | undefined {
  const candidates = pools.flatMap((pool) =>
    Array.from({ length: 2 ** (24 - pool.length) }, (_, index) => ({ base: pool.base + index * 256, length: 24 })),
  );
  const start = createHash('sha256').update(name).digest().readUInt32BE() % candidates.length;
  return [...candidates.slice(start), ...candidates.slice(0, start)].find(
    (candidate) => ![...reserved, ...taken].some((other) => overlaps(candidate, other)),
  );
}

/** A unique local IPv6 /64 (RFC 4193 3.2; the global id comes from a hash instead of the clock). */
export function chooseIPv6Prefix(seed: string): string {
  const hex = createHash('sha256').update(`tshyve-ula\0${seed}`).digest('hex');
  return `fd${hex.slice(0, 2)}:${hex.slice(2, 6)}:${hex.slice(6, 10)}:${hex.slice(10, 14)}::/64`;
}

function mask(length: number): number {
  return length === 0 ? 0 : (0xffff_ffff << (32 - length)) >>> 0;
}

function toNumber(address: string): number {
  return address.split('.').reduce((number, octet) => ((number << 8) | Number(octet)) >>> 0, 0);
}

function toText(number: number): string {
  return [24, 16, 8, 0].map((shift) => String((number >>> shift) & 0xff)).join('.');
}
