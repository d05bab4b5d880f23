import { run } from '../../base/index.js';
import { contact } from '../contact.js';
import {
  type Lease,
  type LeaseFile,
  type Neighbour,
  belongsTo,
  parseArp,
  parseBootpdLeases,
  readBaseline,
} from '../leases/index.js';
import { bridges } from './bridges.js';
import type { MacFacts } from './diagnosis.js';
import { parseDefaultInterface, parseFirewall } from './firewall.js';

/** Where bootpd writes its leases. */
export const bootpdLeases: LeaseFile = { path: '/var/db/dhcpd_leases', parse: parseBootpdLeases };

const SOCKETFILTERFW = '/usr/libexec/ApplicationFirewall/socketfilterfw';
const TIMEOUT_MS = 5_000;
const SSH = 22;

/**
 * Looks at this Mac, as any user may. What cannot be found out is left out.
 * @param mac of a machine that is looked for: its addresses are tried
 */
export async function readMacFacts(mac?: string): Promise<MacFacts> {
  const [leases, globalState, blockAll, apps, neighbours, route, version] = await Promise.all([
    readBaseline([bootpdLeases]),
    say(SOCKETFILTERFW, '--getglobalstate'),
    say(SOCKETFILTERFW, '--getblockall'),
    say(SOCKETFILTERFW, '--listapps'),
    readNeighbours(),
    say('/sbin/route', '-n', 'get', 'default'),
    say('/usr/bin/sw_vers', '-productVersion'),
  ]);
  const now = Date.now();
  const major = /^\d+/.exec(version ?? '')?.[0];
  return {
    now,
    macos: major === undefined ? undefined : Number(major),
    bridges: bridges(),
    leases,
    firewall: globalState === undefined ? undefined : parseFirewall(globalState, blockAll ?? '', apps ?? ''),
    neighbours: neighbours?.length,
    defaultInterface: parseDefaultInterface(route ?? ''),
    ...(mac === undefined ? {} : { machine: { mac, attempts: await tryAddresses(leases, mac, now) } }),
  };
}

/** The error of each address that a machine has a valid lease of and does not answer at. */
async function tryAddresses(leases: readonly Lease[], mac: string, now: number): Promise<Map<string, string>> {
  const own = leases.filter((lease) => belongsTo(lease, mac) && lease.expiresAt > now);
  const tried = await Promise.all(
    own.map(async ({ address }) => [address, await contact(address, SSH, TIMEOUT_MS)] as const),
  );
  return new Map(tried.flatMap(([address, result]) => (result.answered ? [] : [[address, result.code]])));
}

/** The neighbour table. Empty proves nothing, see `parseArp`. @returns undefined when it cannot be read */
export async function readNeighbours(signal?: AbortSignal): Promise<Neighbour[] | undefined> {
  const options = { timeoutMs: TIMEOUT_MS, ...(signal === undefined ? {} : { signal }) };
  const result = await run('/usr/sbin/arp', ['-an'], options).catch(() => undefined);
  return result?.code === 0 ? parseArp(result.stdout) : undefined;
}

async function say(program: string, ...args: string[]): Promise<string | undefined> {
  const result = await run(program, args, { timeoutMs: TIMEOUT_MS }).catch(() => undefined);
  return result?.code === 0 ? result.stdout : undefined;
}
