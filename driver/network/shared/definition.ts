import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';

import { TshyveError, codeOf, fileError, readTextIfPresent, tshyveHome, writeFileAtomic } from '../../base/index.js';
import type { Permitted } from './accounts.js';
import { type Subnet, formatSubnet, hostAt, parseSubnet } from './subnet.js';

const VERSION = 1;
/** IFNAMSIZ is 16 with its final NUL (netdevice(7)). */
const MAX_INTERFACE_NAME = 15;
/** First and last host number that DHCP gives away; those above are for virtual addresses of Kubernetes services. */
const FIRST_LEASE = 10;
const LAST_LEASE = 199;

/** A shared network: what stays the same from one `up` to the next. */
export interface NetworkDefinition {
  readonly version: typeof VERSION;
  readonly name: string;
  readonly ipv4: Subnet;
  /** ULA prefix, e.g. `fd12:3456:789a:1::/64` */
  readonly ipv6: string;
  /** Who may attach machines, besides root. */
  readonly permitted: Permitted;
}

/** Where a network's files lie. */
export interface NetworkPlace {
  readonly folder: string;
  /** It is a user's own, in a namespace of theirs; else the host's. */
  readonly rootless: boolean;
  readonly definition: string;
  /** Held by the keeper while the network is up. */
  readonly lock: string;
  readonly leases: string;
  /** One file per machine: its MAC and name, read by dnsmasq when it appears (dnsmasq(8), --dhcp-hostsdir). */
  readonly hosts: string;
  /** Sockets by which others than root ask for interfaces; see TapService. */
  readonly access: string;
  readonly dnsmasqConfig: string;
  readonly log: string;
  readonly status: string;
  /** Rootless: which process keeps the namespace. */
  readonly namespace: string;
}

/** @throws TshyveError `usage` */
export function checkNetworkName(name: string): string {
  if (!/^[a-z0-9][a-z0-9-]{0,31}$/.test(name)) {
    throw new TshyveError(
      'usage',
      `"${name}" is not a network name: use 1 to 32 small letters, digits and dashes, starting with a letter or digit.`,
    );
  }
  return name;
}

/** The host's networks. `TSHYVE_NETWORKS` overrides. */
export function networksFolder(env: NodeJS.ProcessEnv = process.env): string {
  const override = env['TSHYVE_NETWORKS'];
  return override === undefined || override === '' ? '/var/lib/tshyve/networks' : override;
}

/** Networks that a user has made for themselves, without root. */
export function ownNetworksFolder(env: NodeJS.ProcessEnv = process.env): string {
  return join(tshyveHome(env), 'rootless');
}

/** Where the network of a name is: the user's own, if they have one of that name, comes before the host's. */
export function networkPlace(name: string): NetworkPlace {
  const own = join(ownNetworksFolder(), checkNetworkName(name));
  const rootless = existsSync(own);
  const folder = rootless ? own : join(networksFolder(), name);
  return {
    folder,
    rootless,
    definition: join(folder, 'network.json'),
    lock: join(folder, 'keeper.lock'),
    leases: join(folder, 'dnsmasq.leases'),
    hosts: join(folder, 'hosts'),
    access: join(folder, 'access'),
    dnsmasqConfig: join(folder, 'dnsmasq.conf'),
    log: join(folder, 'keeper.log'),
    status: join(folder, 'status.json'),
    namespace: join(folder, 'namespace.json'),
  };
}

/** Says that a network is not up, and the command that brings it up. */
export function networkIsDown(name: string): TshyveError {
  const command = `${networkPlace(name).rootless ? '' : 'sudo '}tshyve network up ${name}`;
  return new TshyveError('precondition', `The network "${name}" is not up: run "${command}".`);
}

/** Name of the bridge: short names stand for themselves, long ones get a hash. */
export function bridgeName(name: string): string {
  const plain = `tsh-${name}`;
  if (plain.length <= MAX_INTERFACE_NAME) return plain;
  return `tsh-${createHash('sha256').update(name).digest('hex').slice(0, 10)}`;
}

/** Name of a machine's tap interface. */
export function tapName(mac: string): string {
  return `tsht${mac.replaceAll(':', '').slice(-10)}`;
}

/** The host's own address on the network: gateway, DNS server, `host.docker.internal`. */
export function gateway(definition: NetworkDefinition): string {
  return hostAt(definition.ipv4, 1);
}

export function gateway6(definition: NetworkDefinition): string {
  return definition.ipv6.replace('::/64', '::1');
}

export function leaseRange(definition: NetworkDefinition): { first: string; last: string } {
  return { first: hostAt(definition.ipv4, FIRST_LEASE), last: hostAt(definition.ipv4, LAST_LEASE) };
}

export async function writeDefinition(definition: NetworkDefinition): Promise<void> {
  const { ipv4, ...rest } = definition;
  const text = JSON.stringify({ ...rest, ipv4: formatSubnet(ipv4) }, null, 2);
  await writeFileAtomic(networkPlace(definition.name).definition, `${text}\n`, 0o644);
}

/** @returns undefined when there is no such network */
export async function readDefinition(name: string): Promise<NetworkDefinition | undefined> {
  const path = networkPlace(name).definition;
  const text = await readTextIfPresent(path);
  if (text === undefined) return undefined;
  return parseDefinition(text, name, path);
}

/** @throws TshyveError `invalid-config` */
export function parseDefinition(text: string, name: string, path: string): NetworkDefinition {
  const bad = (what: string) =>
    new TshyveError('invalid-config', `${path} ${what}. Run "tshyve network down ${name}" and "up" again.`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw bad('is not valid JSON');
  }
  if (typeof value !== 'object' || value === null) throw bad('is not a JSON object');
  const { version, ipv4, ipv6, permitted } = value as Record<string, unknown>;
  if (version !== VERSION) throw bad(`has version ${String(version)}, this program knows ${String(VERSION)}`);
  const subnet = typeof ipv4 === 'string' ? parseSubnet(ipv4) : undefined;
  if (subnet?.length !== 24) throw bad('has no valid "ipv4"');
  if (typeof ipv6 !== 'string' || !/^fd[0-9a-f]{2}(:[0-9a-f]{4}){3}::\/64$/.test(ipv6))
    throw bad('has no valid "ipv6"');
  const known = permitted === undefined ? { users: [], groups: [] } : parsePermitted(permitted);
  if (known === undefined) throw bad('has no valid "permitted"');
  return { version: VERSION, name, ipv4: subnet, ipv6, permitted: known };
}

function parsePermitted(value: unknown): Permitted | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { users, groups } = value as Record<string, unknown>;
  const isIds = (list: unknown): list is number[] =>
    Array.isArray(list) && list.every((id) => Number.isInteger(id) && id >= 0 && id < 2 ** 32 - 1);
  return isIds(users) && isIds(groups) ? { users, groups } : undefined;
}

/** The names of all networks that this user can use: the host's and their own. */
export async function networkNames(): Promise<string[]> {
  const names = [...(await foldersIn(networksFolder())), ...(await foldersIn(ownNetworksFolder()))];
  return [...new Set(names)].sort();
}

async function foldersIn(folder: string): Promise<string[]> {
  try {
    const entries = await readdir(folder, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return [];
    throw fileError(`read ${folder}`, error);
  }
}
