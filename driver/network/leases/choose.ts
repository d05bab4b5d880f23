import { type Lease, macOfClientId, macOfDuid } from './lease.js';

/** Which machine an address is looked for, and since when. */
export interface LeaseQuery {
  /** `aa:bb:cc:dd:ee:ff` */
  readonly mac: string;
  /** What the lease files held before the machine was started: those leases are of an earlier boot. */
  readonly before: readonly Lease[];
  /** Tells whether an address lies on the network of this machine; left out, any does. */
  readonly onNetwork?: (address: string) => boolean;
  /** Milliseconds since the epoch. */
  readonly now: number;
}

/** An address that may be the machine's. */
export interface Candidate {
  readonly address: string;
  /**
   * `fresh`: given or renewed since the machine was started. `unchanged`: its line looks as it did before, which an
   * unlimited lease does for ever; only contact can tell.
   */
  readonly evidence: 'fresh' | 'unchanged';
}

/**
 * The addresses a machine may have, best first. Leases count by MAC, by the client identifier made of it and by a DUID
 * that carries it, never by name. Expired ones, and those of other networks, are left out.
 * @param leases newest first, as parsers give them
 */
export function chooseCandidates(leases: readonly Lease[], query: LeaseQuery): Candidate[] {
  const known = new Set(query.before.map(identity));
  const ranked = leases
    .filter((lease) => belongsTo(lease, query.mac))
    .filter((lease) => lease.expiresAt > query.now && (query.onNetwork?.(lease.address) ?? true))
    .map((lease) => ({ lease, fresh: !known.has(identity(lease)) }))
    // A stable sort: among equals, what the server wrote last stays first.
    .sort((a, b) => Number(b.fresh) - Number(a.fresh) || compareExpiry(b.lease, a.lease));
  const seen = new Set<string>();
  const candidates: Candidate[] = [];
  for (const { lease, fresh } of ranked) {
    if (seen.has(lease.address)) continue;
    seen.add(lease.address);
    // Somebody else was given the address later: the entry of ours is a leftover.
    if (isTakenOver(lease, leases, query.mac)) continue;
    candidates.push({ address: lease.address, evidence: fresh ? 'fresh' : 'unchanged' });
  }
  return candidates;
}

/** True when the lease is the machine's: what the server saw of the hardware decides, then what the client claims. */
export function belongsTo(lease: Lease, mac: string): boolean {
  if (lease.mac !== undefined) return lease.mac === mac;
  if (lease.clientId === undefined) return false;
  return (macOfClientId(lease.clientId) ?? macOfDuid(lease.clientId)) === mac;
}

function isTakenOver(ours: Lease, leases: readonly Lease[], mac: string): boolean {
  return leases.some(
    (other) => other.address === ours.address && !belongsTo(other, mac) && compareExpiry(other, ours) > 0,
  );
}

function compareExpiry(a: Lease, b: Lease): number {
  if (a.expiresAt === b.expiresAt) return 0;
  return a.expiresAt > b.expiresAt ? 1 : -1;
}

function identity(lease: Lease): string {
  return `${lease.address} ${lease.mac ?? ''} ${lease.clientId ?? ''} ${String(lease.expiresAt)}`;
}
