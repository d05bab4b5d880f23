import { constants } from 'node:fs';
import { access, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';

import { TshyveError, writeFileAtomic } from '../../base/index.js';
import { type NetworkPlace, bridgeName, networkIsDown, networkPlace, readDefinition, tapName } from './definition.js';
import { hostLine } from './dnsmasq-config.js';
import { ownScope } from './scope.js';
import { scopeOf } from './namespace.js';
import { askKeeper } from './tap-client.js';
import type { Principal } from './tap-requests.js';

const TUN = '/dev/net/tun';

export interface TapRequest {
  readonly network: string;
  readonly mac: string;
  readonly machineName: string;
}

/**
 * Gives a machine its interface on a network; one that a crash has left is used as it is. Root makes it, anybody else
 * asks the network's keeper for it.
 * @returns the name of the tap interface
 * @throws TshyveError `precondition` when the network is down or may not be used
 */
export async function attachTap(request: TapRequest): Promise<string> {
  const { network, mac, machineName } = request;
  if ((await readDefinition(network)) === undefined || !ownScope.interfaceExists(bridgeName(network))) {
    throw networkIsDown(network);
  }
  // Root of the namespace may only open what its user may.
  if (networkPlace(network).rootless) await requireTun();
  if (isRoot()) return makeTap(request, { kind: 'user', id: 0 });
  await requireTun();
  return askKeeper(network, { action: 'attach', mac, machineName });
}

/** Takes a machine off its network; fine when it is not there. */
export async function detachTap(network: string, mac: string, machineName: string): Promise<void> {
  if (networkPlace(network).rootless) {
    const scope = await scopeOf(network);
    if (scope !== undefined) await removeTap(network, mac, scope);
  } else if (isRoot()) await removeTap(network, mac);
  else if (ownScope.interfaceExists(tapName(mac))) await askKeeper(network, { action: 'detach', mac, machineName });
}

/** As root: makes an interface that only its owner can open, on the bridge of the network. */
export async function makeTap({ network, mac, machineName }: TapRequest, owner: Principal): Promise<string> {
  const tap = machineOf(networkPlace(network), mac);
  // The name first: dnsmasq must know it before the guest asks for an address.
  await writeFileAtomic(tap.hosts, hostLine(mac, machineName), 0o644);
  if (!ownScope.interfaceExists(tap.name)) {
    const owned = [owner.kind, String(owner.id)];
    await ownScope.must('ip', ['tuntap', 'add', 'dev', tap.name, 'mode', 'tap', ...owned, 'vnet_hdr']);
  }
  await ownScope.must('ip', ['link', 'set', tap.name, 'master', bridgeName(network), 'up']);
  return tap.name;
}

/** As root, of the host or of the network's namespace. */
export async function removeTap(network: string, mac: string, scope = ownScope): Promise<void> {
  const tap = machineOf(networkPlace(network), mac);
  if (scope.interfaceExists(tap.name)) await scope.must('ip', ['link', 'delete', tap.name]);
  await rm(tap.hosts, { force: true });
}

/** A machine's interface and the file that tells dnsmasq its name. */
export function machineOf(place: NetworkPlace, mac: string): { readonly name: string; readonly hosts: string } {
  const name = tapName(mac);
  return { name, hosts: join(place.hosts, name) };
}

/** Who may open an interface (the tun driver's attributes in sysfs); undefined: nobody of that kind was named. */
export async function tapOwner(tap: string): Promise<Record<Principal['kind'], number | undefined>> {
  const read = async (attribute: string) => {
    const text = (await readFile(`/sys/class/net/${tap}/${attribute}`, 'utf8').catch(() => '')).trim();
    return /^\d+$/.test(text) ? Number(text) : undefined;
  };
  return { user: await read('owner'), group: await read('group') };
}

function isRoot(): boolean {
  return process.geteuid?.() === 0;
}

/** @throws TshyveError `precondition` */
export async function requireTun(): Promise<void> {
  try {
    await access(TUN, constants.R_OK | constants.W_OK);
  } catch (error) {
    throw new TshyveError(
      'precondition',
      `You may not open ${TUN}, which machines on shared networks need. It is open to all where udev runs; else "sudo chmod 666 ${TUN}" does that until the next boot. An interface still opens to its owner only.`,
      { cause: error },
    );
  }
}
