import { readdir } from 'node:fs/promises';

import { codeOf, fileError, hasRunRoot, isLocked, runRoot } from '../base/index.js';
import { PREFIX, isUserNetwork, machineOfPort, userNetworkPlace } from './place.js';

/** A user-mode network that is up. */
export interface UserNetworkReport {
  /** As `--network` takes it: `user:lab`. */
  readonly name: string;
  readonly state: 'up';
  /** libslirp's, the same for all: they do not see each other. */
  readonly ipv4: '10.0.2.0/24';
  /** What machines reach the host at. */
  readonly gateway: '10.0.2.2';
  /** MAC addresses of the machines on it. */
  readonly interfaces: readonly string[];
}

/** The user-mode networks of this user that have machines now. */
export async function listUserNetworks(): Promise<UserNetworkReport[]> {
  if (!(await hasRunRoot())) return [];
  const folders = (await entries(runRoot())).filter((name) => isUserNetwork(name)).sort();
  const reports = await Promise.all(folders.map((folder) => report(folder.slice(PREFIX.length))));
  return reports.filter((found) => found !== undefined);
}

async function report(name: string): Promise<UserNetworkReport | undefined> {
  const place = userNetworkPlace(name);
  if (!(await isLocked(place.lock))) return undefined;
  const interfaces = (await entries(place.folder)).flatMap((file) => machineOfPort(file) ?? []).sort();
  return { name: `user:${name}`, state: 'up', ipv4: '10.0.2.0/24', gateway: '10.0.2.2', interfaces };
}

async function entries(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return [];
    throw fileError(`list ${folder}`, error);
  }
}
