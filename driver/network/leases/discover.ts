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
  /** Addresses from elsewhere, asked for at each look that has found none in the files; they need confirmation as well. */
  readonly further?: (signal: AbortSignal) => Promise<readonly string[]>;
  /** Milliseconds after which addresses that did not answer are tried again; left out, at the next change only. */
  readonly retryMs?: number;
  /** The machine's address as it is known: only another one that was given since is of interest. */
  readonly except?: string;
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
    const candidates = await candidatesOf(options);
    const address =
      (await firstTrue(candidates, options.confirm, signal)) ?? (await firstFurther(options, candidates, signal));
    if (address !== undefined) return address;
    if (candidates.length > 0 && options.retryMs !== undefined) {
      const again = setTimeout(onChange, options.retryMs);
      signal.addEventListener(
        'abort',
        () => {
          clearTimeout(again);
        },
        { once: true },
      );
    }
  }
  throw new TshyveError('cancelled', `Waiting for a DHCP lease of ${options.mac} was cancelled.`);
}

async function candidatesOf(options: DiscoverOptions): Promise<Candidate[]> {
  const { mac, before, onNetwork, except } = options;
  const query = { mac, before, now: Date.now(), ...(onNetwork === undefined ? {} : { onNetwork }) };
  const candidates = chooseCandidates(await readBaseline(options.files), query);
  return except === undefined
    ? candidates
    : candidates.filter(({ address, evidence }) => evidence === 'fresh' && address !== except);
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

async function firstFurther(
  { further, confirm, onNetwork, except }: DiscoverOptions,
  tried: readonly Candidate[],
  signal: AbortSignal,
): Promise<string | undefined> {
  if (further === undefined || confirm === undefined || except !== undefined) return undefined;
  for (const address of await further(signal)) {
    if (tried.some((candidate) => candidate.address === address) || onNetwork?.(address) === false) continue;
    if (await confirm(address, signal)) return address;
  }
  return undefined;
}
