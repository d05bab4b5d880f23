import { type Log, TshyveError, messageOf, sleep } from '../base/index.js';
import {
  ForwardTable,
  type NamespaceNetworkSpec,
  type NetworkSpec,
  type PortForward,
  type TapNetworkSpec,
} from '../hypervisor/index.js';
import {
  type Lease,
  type LeaseFile,
  attachTap,
  contains,
  detachTap,
  discoverAddress,
  networkPlace,
  parseDnsmasqLeases,
  readBaseline,
  readDefinition,
} from '../network/index.js';
import { Membership } from '../user-network/index.js';
import { BorrowedPorts } from './borrowed-ports.js';
import { attachNat } from './nat-attachment.js';

/** One look lasts this long; then the next begins, as long as the machine runs. */
const LOOK_MS = 3_600_000;
const RETRY_MS = 5_000;

/** What a machine on a network with others needs of the host: its interface or port, and somebody who learns its address. */
export interface Attachment {
  /** The machine's forwards, where this binds them and not the hypervisor. */
  readonly ports?: ForwardTable;
  /** Where this process itself reaches what a forward leads to, if not there: it may be in another namespace. */
  readonly reach?: (forward: PortForward) => PortForward | undefined;
  /** Tells each address the machine gets, and what is wrong with its network (nothing: all is well), until `detach`. */
  watch(onAddress: (address: string) => void, onProblem: (problem: string) => void): void;
  /** The machine's address is no longer to be relied on: it is verified, and another one looked for everywhere. */
  hostHasSlept?(): void;
  /** Takes the interface away; never rejects. */
  detach(): Promise<void>;
}

/**
 * Attaches a machine to its network, if it has one.
 * @returns undefined for a machine that needs nothing
 * @throws TshyveError `precondition` when the network is down or may not be used
 */
export async function attach(network: NetworkSpec, machineName: string, log: Log): Promise<Attachment | undefined> {
  if (network.mode === 'switch') {
    const membership = await Membership.join(network, log);
    return {
      ports: membership.ports,
      watch: (onAddress, onProblem) => {
        membership.watch(onAddress, onProblem);
      },
      detach: () => membership.leave(),
    };
  }
  if (network.mode === 'nat' || network.mode === 'bridged') return attachNat(network, log);
  if (network.mode === 'tap') return attachToShared(network, machineName, log);
  if (network.mode === 'namespace') return attachInNamespace(network, machineName, log);
  return undefined;
}

async function attachToShared(
  network: TapNetworkSpec | NamespaceNetworkSpec,
  machineName: string,
  log: Log,
): Promise<Attachment> {
  const definition = await readDefinition(network.network);
  await attachTap({ network: network.network, mac: network.mac, machineName });
  const files: LeaseFile[] = [{ path: networkPlace(network.network).leases, parse: parseDnsmasqLeases }];
  // Whatever is in there is of an earlier boot, or of another machine.
  let before: Lease[] = await readBaseline(files);
  const over = new AbortController();
  const onNetwork = (address: string) => definition !== undefined && contains(definition.ipv4, address);
  const look = async (onAddress: (address: string) => void) => {
    let known = network.mode === 'tap' ? network.address : undefined;
    if (known !== undefined) onAddress(known);
    while (!over.signal.aborted) {
      try {
        const query = { mac: network.mac, files, before, onNetwork, timeoutMs: LOOK_MS, signal: over.signal };
        const address = await discoverAddress(query);
        if (address !== known) onAddress(address);
        known = address;
        before = await readBaseline(files);
      } catch (error) {
        if (TshyveError.is(error, 'cancelled') || TshyveError.is(error, 'timeout')) continue;
        log.info(`Leases of the network "${network.network}": ${messageOf(error)}`);
        await sleep(RETRY_MS, over.signal).catch(() => undefined);
      }
    }
  };
  return {
    watch: (onAddress) => void look(onAddress),
    detach: async () => {
      over.abort();
      await leave(network, machineName, log);
    },
  };
}

/** As on a shared network of the host, and its ports besides: the host has no way to the guest's own address. */
async function attachInNamespace(network: NamespaceNetworkSpec, machineName: string, log: Log): Promise<Attachment> {
  const shared = await attachToShared(network, machineName, log);
  // One that was suspended has its address still, and asks much later.
  const leases: LeaseFile[] = [{ path: networkPlace(network.network).leases, parse: parseDnsmasqLeases }];
  let guest = (await readBaseline(leases)).find(({ mac }) => mac === network.mac)?.address;
  const borrowed = new BorrowedPorts(() => guest);
  const ports = new ForwardTable(network.hostAddress, borrowed);
  const detach = async () => {
    borrowed.close();
    await shared.detach();
  };
  try {
    for (const forward of network.forwards) await ports.add(forward);
  } catch (error) {
    await detach();
    throw error;
  }
  return {
    ports,
    reach: ({ name, guestPort, protocol }) =>
      guest === undefined ? undefined : { name, guestPort, protocol, hostAddress: guest, hostPort: guestPort },
    watch: (onAddress, onProblem) => {
      shared.watch((address) => {
        guest = address;
        onAddress(address);
      }, onProblem);
    },
    detach,
  };
}

async function leave(network: TapNetworkSpec | NamespaceNetworkSpec, machineName: string, log: Log): Promise<void> {
  try {
    await detachTap(network.network, network.mac, machineName);
  } catch (error) {
    log.info(`The interface ${network.interface} stays: ${messageOf(error)}`);
  }
}
