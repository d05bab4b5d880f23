import { type Lease, belongsTo } from '../leases/index.js';
import { contains, formatSubnet } from '../shared/subnet.js';
import type { Bridge } from './bridges.js';
import type { Firewall } from './firewall.js';

/** What is known of a Mac when a machine there has no address, or cannot be reached at the one it has. */
export interface MacFacts {
  /** Milliseconds since the epoch. */
  readonly now: number;
  /** Major version of macOS; undefined when it is not known. */
  readonly macos: number | undefined;
  readonly bridges: readonly Bridge[];
  /** What the lease file holds. */
  readonly leases: readonly Lease[];
  readonly firewall: Firewall | undefined;
  /** Entries of the neighbour table, of all interfaces. */
  readonly neighbours: number | undefined;
  /** Interface of the default route, e.g. `en0`; `utun4` is a VPN's. */
  readonly defaultInterface: string | undefined;
  /** The machine that is looked for; left out, the Mac is looked at as such. */
  readonly machine?: {
    readonly mac: string;
    /** Error code of each address that was tried, e.g. `EHOSTUNREACH`. */
    readonly attempts: ReadonlyMap<string, string>;
  };
}

/** Something that keeps a machine from its address, and the one thing to do about it. Nothing is done by itself. */
export interface Finding {
  readonly kind:
    | 'firewall'
    | 'firewall-blocks-all'
    | 'local-network-privacy'
    | 'neighbours-hidden'
    | 'pool-exhausted'
    | 'subnet-changed'
    | 'vpn'
    | 'no-lease';
  /** A sentence. */
  readonly cause: string;
  /** A sentence; its command, if it has one, in double quotes. */
  readonly fix: string;
}

/** The first macOS that hides the neighbour table from programs without Apple's permission. */
const NEIGHBOURS_HIDDEN_SINCE = 27;
const SOCKETFILTERFW = '/usr/libexec/ApplicationFirewall/socketfilterfw';

/** What is wrong, the likeliest first. Without a machine, only what would keep any machine from its address. */
export function diagnose(facts: MacFacts): Finding[] {
  const { machine } = facts;
  const findings: Finding[] = [];
  const own = machine === undefined ? [] : facts.leases.filter((lease) => belongsTo(lease, machine.mac));
  const valid = own.filter((lease) => lease.expiresAt > facts.now);
  const onBridge = valid.filter(({ address }) => facts.bridges.some(({ subnet }) => contains(subnet, address)));
  if ([...(machine?.attempts.values() ?? [])].includes('EHOSTUNREACH') && onBridge.length > 0) {
    findings.push({
      kind: 'local-network-privacy',
      cause: `The machine has the address ${onBridge[0]?.address ?? ''}, but macOS says "no route to host": the program that runs tshyve may not use the local network.`,
      fix: 'Allow your terminal in System Settings, Privacy & Security, Local Network, and start it anew.',
    });
  }
  if (machine === undefined || onBridge.length === 0)
    findings.push(...firewallFindings(facts.firewall), ...poolFindings(facts));
  if (valid.length > 0 && onBridge.length === 0 && facts.bridges.length > 0) {
    const networks = facts.bridges.map(({ name, subnet }) => `${formatSubnet(subnet)} on ${name}`).join(', ');
    findings.push({
      kind: 'subnet-changed',
      cause: `The machine's lease is for ${valid[0]?.address ?? ''}, but the networks here are ${networks}: the network was renumbered.`,
      fix: 'Stop the machine and start it again: its guest then asks for an address of the new network.',
    });
  }
  if (/^(utun|ppp|ipsec)\d/.test(facts.defaultInterface ?? '')) {
    findings.push({
      kind: 'vpn',
      cause: `A VPN has the default route (${facts.defaultInterface ?? ''}); many keep the networks of virtual machines from the host.`,
      fix: 'Disconnect the VPN and try again, or let it leave local networks alone ("split tunnel").',
    });
  }
  if (machine !== undefined && valid.length === 0 && findings.length === 0) {
    findings.push({
      kind: 'no-lease',
      // Leases of earlier boots stay in the file when they are over.
      cause: `macOS' DHCP server has given no lease to ${machine.mac}${own.length === 0 ? '' : ' since its last one was over'}.`,
      fix: 'See whether the guest has booted ("tshyve logs" shows its console); it has to ask with its MAC as client identifier.',
    });
  }
  if (machine !== undefined && valid.length === 0 && facts.neighbours === 0) findings.push(...neighbourFindings(facts));
  return findings;
}

function firewallFindings(firewall: Firewall | undefined): Finding[] {
  if (firewall?.enabled !== true) return [];
  if (firewall.blocksAll) {
    return [
      {
        kind: 'firewall-blocks-all',
        cause: 'The application firewall blocks all incoming connections, so that no guest reaches the DHCP server.',
        fix: `Run "sudo ${SOCKETFILTERFW} --setblockall off".`,
      },
    ];
  }
  if (firewall.bootpd !== 'blocked') return [];
  return [
    {
      kind: 'firewall',
      cause: 'The application firewall blocks bootpd, the DHCP server of macOS.',
      fix: `Run "sudo ${SOCKETFILTERFW} --add /usr/libexec/bootpd --unblock /usr/libexec/bootpd"; on a managed Mac, ask who manages it.`,
    },
  ];
}

/** bootpd gives an expired address to another machine only when it has no other left. */
function poolFindings({ bridges, leases, now, machine }: MacFacts): Finding[] {
  return bridges.flatMap(({ name, subnet }) => {
    // Without the network's own address, the host's and the broadcast one.
    const size = 2 ** (32 - subnet.length) - 3;
    const held = new Set(
      leases
        .filter((lease) => lease.expiresAt > now && contains(subnet, lease.address))
        .filter((lease) => machine === undefined || !belongsTo(lease, machine.mac))
        .map(({ address }) => address),
    );
    if (held.size < size) return [];
    return [
      {
        kind: 'pool-exhausted' as const,
        cause: `All ${String(size)} addresses of ${formatSubnet(subnet)} on ${name} are leased, most to machines that are long gone.`,
        fix: 'Stop all virtual machines and run "sudo rm /var/db/dhcpd_leases".',
      },
    ];
  });
}

function neighbourFindings({ macos }: MacFacts): Finding[] {
  if (macos === undefined || macos < NEIGHBOURS_HIDDEN_SINCE) return [];
  return [
    {
      kind: 'neighbours-hidden',
      cause: `macOS ${String(macos)} hides the neighbour table from this program, so that only leases tell addresses.`,
      fix: 'Run the command from Terminal, where the table shows, or go by the lease file alone.',
    },
  ];
}

/** Findings as one text for the end of an error message; empty when there are none. */
export function explainFindings(findings: readonly Finding[]): string {
  return findings.map(({ cause, fix }) => `${cause} ${fix}`).join(' ');
}
