import { TshyveError, within } from '../../base/index.js';
import { type Candidate, type LeaseQuery, chooseCandidates } from './choose.js';
import type { Lease } from './lease.js';
import { type LeaseFile, readLeases, watchLeaseFile } from './watch.js';

export interface DiscoverOptions {
  readonly mac: string;
  readonly files: readonly LeaseFile[];
  /** From `readBaseline`, taken before the machine was started. */
  readonly before: readonly Lease[];
  readonly onNetwork?: LeaseQuery['onNetwork'];
  /**
   * Contacts an address and tells whether this machine answers there. Without it, only leases that were given since the
   * machine was started are believed.
   */
  readonly confirm?: (address: string, signal: AbortSignal) => Promise<boolean>;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** What the lease files hold now. To be called before a machine is started. */
export async function readBaseline(files: readonly LeaseFile[]): Promise<Lease[]> {
  return (await Promise.all(files.map((file) => readLeases(file)))).flat();
}

/**
 * Waits for the address of a machine that is starting: looks at once, then whenever a lease file changes.
 * @throws TshyveError `timeout`, `cancelled`
 */
export async function discoverAddress(options: DiscoverOptions): Promise<string> {
  const over = new AbortController();
  const signal = AbortSignal.any([options.signal, over.signal]);
  try {
    return await within(look(options, signal), options.timeoutMs, `a DHCP lease of ${options.mac}`, options.signal);
  } finally {
    over.abort();
  }
}

async function look(options: DiscoverOptions, signal: AbortSignal): Promise<string> {
  let changed = true;
  let wake: () => void = () => undefined;
  const onChange = () => {
    changed = true;
    wake();
  };
  for (const file of options.files) watchLeaseFile(file.path, onChange, signal);
  signal.addEventListener('abort', () => {
    wake();
  });
  while (!signal.aborted) {
    if (!changed) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
      continue;
    }
    changed = false;
    const leases = await readBaseline(options.files);
    const query = { mac: options.mac, before: options.before, now: Date.now() };
    const candidates = chooseCandidates(leases, {
      ...query,
      ...(options.onNetwork === undefined ? {} : { onNetwork: options.onNetwork }),
    });
    const address = await firstTrue(candidates, options.confirm, signal);
    if (address !== undefined) return address;
  }
  throw new TshyveError('cancelled', `Waiting for a DHCP lease of ${options.mac} was cancelled.`);
}

async function firstTrue(
  candidates: readonly Candidate[],
  confirm: DiscoverOptions['confirm'],
  signal: AbortSignal,
): Promise<string | undefined> {
  for (const { address, evidence } of candidates) {
    if (confirm === undefined ? evidence === 'fresh' : await confirm(address, signal)) return address;
  }
  return undefined;
}
