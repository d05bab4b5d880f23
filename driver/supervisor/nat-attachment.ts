import { type Log, TshyveError, messageOf, sleep } from '../base/index.js';
import type { BridgedNetworkSpec, NatNetworkSpec } from '../hypervisor/index.js';
import {
  type Bridge,
  type Contact,
  type LeaseFile,
  type Neighbour,
  belongsTo,
  bootpdLeases,
  bridges,
  contact,
  discoverAddress,
  isOnBridge,
  readBaseline,
  readNeighbours,
} from '../network/index.js';
import type { Attachment } from './attachment.js';

const LOOK_MS = 3_600_000;
const AFTER_FAILURE_MS = 5_000;
/** A guest that boots answers some seconds after it was given its address. */
const RETRY_MS = 300;
const CONTACT_MS = 2_000;
/** How often to see whether the machine's network is still the one that its address belongs to. */
const BRIDGES_MS = 5_000;

/** Where a Mac tells of addresses. */
export interface NatSources {
  readonly leases: LeaseFile;
  readonly bridges: () => readonly Bridge[];
  readonly neighbours: (signal: AbortSignal) => Promise<readonly Neighbour[] | undefined>;
  readonly contact: (address: string, port: number, signal: AbortSignal) => Promise<Contact>;
}

const thisMac: NatSources = {
  leases: bootpdLeases,
  bridges,
  neighbours: readNeighbours,
  contact: (address, port, signal) => contact(address, port, CONTACT_MS, signal),
};

/** What answers a machine's requests on the physical network is no program of this Mac's. */
const elsewhere: NatSources = { ...thisMac, bridges: () => [] };

/**
 * Learns the address of a machine on macOS' own NAT, or on its bridge: from bootpd's leases, else from the neighbour
 * table, and only one where the machine answers. It goes on looking as long as the machine runs, for leases given since:
 * the network may be renumbered, which a guest with a lease does not notice. After that, and after a sleep of the Mac, no
 * address is taken for granted: all sources are asked anew, and contact decides.
 * @param bridgesMs milliseconds between two looks at the network's own address
 */
export async function attachNat(
  network: NatNetworkSpec | BridgedNetworkSpec,
  log: Log,
  sources: NatSources = network.mode === 'nat' ? thisMac : elsewhere,
  bridgesMs = BRIDGES_MS,
): Promise<Attachment> {
  const files = [sources.leases];
  const port = network.services.find(({ name }) => name === 'ssh')?.guestPort ?? 22;
  const over = new AbortController();
  const refusals = new Set<string>();
  let known = network.address;
  /** Whether nobody has answered at the known address since the Mac woke, or since its network changed. */
  let doubtful = false;
  let round = new AbortController();
  let problem: (text: string) => void = () => undefined;
  const confirm = async (address: string, signal: AbortSignal) => {
    const result = await sources.contact(address, port, signal);
    if (!result.answered && result.code !== 'ABORTED' && !refusals.has(`${address} ${result.code}`)) {
      refusals.add(`${address} ${result.code}`);
      log.info(`The machine does not answer at ${address} yet (${result.code}).`);
    }
    if (result.answered) problem('');
    else if (result.code === 'EHOSTUNREACH') problem(noRoute(address));
    return result.answered;
  };
  const further = async (signal: AbortSignal) => {
    const entries = (await sources.neighbours(signal)) ?? [];
    const neighbours = entries.filter(({ mac }) => mac === network.mac).map(({ address }) => address);
    // The lease of a guest that slept on may be over, or was never in the file.
    return known === undefined || (await isAnothers(known, files, network.mac)) ? neighbours : [known, ...neighbours];
  };
  // Whatever is in there is of an earlier boot, or of another machine.
  let before = await readBaseline(files);
  const look = async (onAddress: (address: string) => void) => {
    if (known !== undefined) onAddress(known);
    while (!over.signal.aborted) {
      round = new AbortController();
      const signal = AbortSignal.any([over.signal, round.signal]);
      try {
        const address = await discoverAddress({
          mac: network.mac,
          files,
          before,
          onNetwork: (candidate) => isOnBridge(candidate, sources.bridges()),
          confirm,
          further,
          retryMs: RETRY_MS,
          timeoutMs: LOOK_MS,
          signal,
          ...(known === undefined || doubtful ? {} : { except: known }),
        });
        // Woken again just now.
        if (signal.aborted) continue;
        doubtful = false;
        if (address !== known) onAddress(address);
        known = address;
        before = await readBaseline(files);
      } catch (error) {
        if (TshyveError.is(error, 'cancelled') || TshyveError.is(error, 'timeout')) continue;
        log.info(`Leases in ${sources.leases.path}: ${messageOf(error)}`);
        await sleep(AFTER_FAILURE_MS, over.signal).catch(() => undefined);
      }
    }
  };
  /** The known address when it belongs to no network here. */
  const astray = () => (known !== undefined && !isOnBridge(known, sources.bridges()) ? known : undefined);
  const doubt = () => {
    doubtful = true;
    round.abort();
    const address = astray();
    if (address !== undefined) problem(renumbered(address));
  };
  let wasAstray: string | undefined;
  const watchBridges = setInterval(() => {
    const address = astray();
    if (address !== undefined && address !== wasAstray) {
      log.info(`No network here has the address ${address} any more`);
      doubt();
    }
    wasAstray = address;
  }, bridgesMs);
  watchBridges.unref();
  return {
    watch: (onAddress, onProblem) => {
      problem = onProblem;
      void look(onAddress);
    },
    hostHasSlept: doubt,
    detach: () => {
      clearInterval(watchBridges);
      over.abort();
      return Promise.resolve();
    },
  };
}

async function isAnothers(address: string, files: readonly LeaseFile[], mac: string): Promise<boolean> {
  const leases = await readBaseline(files);
  const now = Date.now();
  return leases.some((lease) => lease.address === address && lease.expiresAt > now && !belongsTo(lease, mac));
}

function renumbered(address: string): string {
  return `macOS has renumbered its network, so that nothing leads to ${address} any more: if the machine gets no other address soon, restart it ("tshyve restart").`;
}

/** Also while a guest boots, for some seconds; for longer it has this cause. */
function noRoute(address: string): string {
  return `macOS has no route to ${address}: if that lasts, allow the program that runs tshyve the local network (System Settings, Privacy & Security, Local Network).`;
}
