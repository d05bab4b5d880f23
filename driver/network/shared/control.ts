import { readFile, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';

import { TshyveError, sleep } from '../../base/index.js';
import type { Permitted } from './accounts.js';
import {
  type NetworkDefinition,
  bridgeName,
  networkIsDown,
  checkNetworkName,
  gateway,
  networkNames,
  networkPlace,
  readDefinition,
  writeDefinition,
} from './definition.js';
import { isUp, keeperPid } from './liveness.js';
import { endNamespace, scopeOf } from './namespace.js';
import { nftablesRemoval } from './nftables.js';
import { formatSubnet } from './subnet.js';
import { accessSocket } from './tap-requests.js';

const DOWN_TIMEOUT_MS = 20_000;
const PERMIT_TIMEOUT_MS = 5_000;

export interface NetworkReport {
  readonly name: string;
  /** It is this user's own, in a namespace, and machines are reached at ports of the host. */
  readonly rootless: boolean;
  /** `up`: its keeper runs; `stale`: a keeper died and left a bridge; `down` */
  readonly state: 'up' | 'stale' | 'down';
  readonly bridge: string;
  readonly ipv4: string;
  readonly ipv6: string;
  readonly gateway: string;
  /** Interfaces of machines on the bridge. */
  readonly interfaces: readonly string[];
  /** Numbers of the users and groups that may attach machines, besides root. */
  readonly permitted: Permitted;
}

/** @throws TshyveError `not-found` */
export async function inspectNetwork(name: string): Promise<NetworkReport> {
  const definition = await readDefinition(checkNetworkName(name));
  if (definition === undefined) {
    throw new TshyveError('not-found', `There is no network "${name}": "tshyve network up ${name}" makes it.`);
  }
  return report(definition);
}

/** @throws TshyveError `precondition` that names the command which brings the network up */
export async function requireUp(name: string): Promise<void> {
  if (process.platform !== 'linux') {
    throw new TshyveError('precondition', 'Shared networks of this version need Linux. Use --tshyve-network user.');
  }
  if (await isUp(checkNetworkName(name))) return;
  throw networkIsDown(name);
}

export async function listNetworks(): Promise<NetworkReport[]> {
  const definitions = await Promise.all((await networkNames()).map((name) => readDefinition(name)));
  return Promise.all(definitions.flatMap((definition) => (definition === undefined ? [] : [report(definition)])));
}

async function report(definition: NetworkDefinition): Promise<NetworkReport> {
  const bridge = bridgeName(definition.name);
  const up = await isUp(definition.name);
  const scope = await scopeOf(definition.name);
  return {
    name: definition.name,
    rootless: networkPlace(definition.name).rootless,
    state: up ? 'up' : scope?.interfaceExists(bridge) === true ? 'stale' : 'down',
    bridge,
    ipv4: formatSubnet(definition.ipv4),
    ipv6: definition.ipv6,
    gateway: gateway(definition),
    interfaces: (await scope?.bridgePorts(bridge)) ?? [],
    permitted: definition.permitted,
  };
}

/**
 * Takes a network down and forgets it: keeper, bridge, interfaces, rules, files.
 * @throws TshyveError `busy` when machines are attached and `force` is not given
 */
export async function removeNetwork(name: string, options: { readonly force: boolean }): Promise<void> {
  checkNetworkName(name);
  const place = networkPlace(name);
  const bridge = bridgeName(name);
  const scope = await scopeOf(name);
  const ports = (await scope?.bridgePorts(bridge)) ?? [];
  if (ports.length > 0 && !options.force) {
    throw new TshyveError(
      'busy',
      `${String(ports.length)} machines are attached to the network "${name}". Stop them, or use --force.`,
    );
  }
  await endKeeper(name);
  if (place.rootless) await endNamespace(place);
  else if (scope !== undefined) {
    for (const port of ports) if (scope.interfaceExists(port)) await scope.must('ip', ['link', 'delete', port]);
    // What a keeper that was killed has left.
    if (scope.interfaceExists(bridge)) {
      await scope.must('nft', ['-f', '-'], nftablesRemoval(name));
      await scope.must('ip', ['link', 'delete', bridge]);
    }
  }
  await rm(place.folder, { recursive: true, force: true });
}

/**
 * Changes who may attach machines to a network that is up; the keeper listens for them when this resolves.
 * @throws TshyveError `not-found`, `precondition` when we are not root, `timeout`
 */
export async function permit(name: string, permitted: Permitted): Promise<void> {
  const definition = await readDefinition(checkNetworkName(name));
  if (definition === undefined) throw new TshyveError('not-found', `There is no network "${name}".`);
  await writeDefinition({ ...definition, permitted });
  const place = networkPlace(name);
  const pid = keeperPid(await readFile(place.status, 'utf8').catch(() => ''));
  if (pid !== undefined) process.kill(pid, 'SIGHUP');
  const wanted = [
    ...permitted.users.map((id) => accessSocket(place, { kind: 'user', id })),
    ...permitted.groups.map((id) => accessSocket(place, { kind: 'group', id })),
  ].sort();
  const served = async () => {
    const names = await readdir(place.access).catch(() => []);
    return names.map((name) => join(place.access, name)).sort();
  };
  const deadline = performance.now() + PERMIT_TIMEOUT_MS;
  // The keeper makes and removes the sockets; its answer to a signal is that.
  while (JSON.stringify(await served()) !== JSON.stringify([...new Set(wanted)])) {
    if (performance.now() > deadline) {
      throw new TshyveError('timeout', `The keeper of the network "${name}" does not listen; ${place.log} says why.`);
    }
    await sleep(20);
  }
}

async function endKeeper(name: string): Promise<void> {
  if (!(await isUp(name))) return;
  const place = networkPlace(name);
  const pid = keeperPid(await readFile(place.status, 'utf8').catch(() => ''));
  if (pid !== undefined) process.kill(pid, 'SIGTERM');
  const deadline = performance.now() + DOWN_TIMEOUT_MS;
  // The kernel tells nobody when a lock is freed.
  while (await isUp(name)) {
    if (performance.now() > deadline) {
      throw new TshyveError('timeout', `The keeper of the network "${name}" does not end; ${place.log} says why.`);
    }
    await sleep(20);
  }
}
