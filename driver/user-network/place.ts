import { join } from 'node:path';

import { checkSocketPath, runRoot, tshyveHome } from '../base/index.js';
import { checkNetworkName } from '../network/index.js';

/** Where a user-mode network keeps what. Its machines belong to one user, and so does it. */
export interface UserNetworkPlace {
  readonly name: string;
  /** Name of the folder in the run folder; 0700, dies with a reboot. */
  readonly id: string;
  readonly folder: string;
  /** Held by the process of the network as long as it lives. */
  readonly lock: string;
  readonly socket: string;
  readonly log: string;
  /** Addresses of machines by MAC, for ever. */
  readonly addresses: string;
}

/** Of the names of the folders of user-mode networks in the run folder. */
export const PREFIX = 'net-';

/** True for the name of such a folder. */
export function isUserNetwork(folder: string): boolean {
  return /^net-[a-z0-9][a-z0-9-]{0,31}$/.test(folder);
}

/** @throws TshyveError `usage` for a name that is none */
export function userNetworkPlace(name: string): UserNetworkPlace {
  const id = `${PREFIX}${checkNetworkName(name)}`;
  const folder = join(runRoot(), id);
  return {
    name,
    id,
    folder,
    lock: join(folder, 'switch.lock'),
    socket: checkSocketPath(join(folder, 'switch.sock')),
    log: join(folder, 'switch.log'),
    addresses: join(tshyveHome(), 'networks', `${name}.json`),
  };
}

const SWITCH_END = '.port';

/** Both ends of a machine's port at the switch: unix datagram sockets, one frame a datagram. */
export function portSockets(name: string, mac: string): { machineSocket: string; switchSocket: string } {
  const stem = join(userNetworkPlace(name).folder, mac.replaceAll(':', ''));
  return { machineSocket: checkSocketPath(`${stem}.nic`), switchSocket: checkSocketPath(`${stem}${SWITCH_END}`) };
}

/** @returns the MAC address of the machine whose port this file is; undefined for other files */
export function machineOfPort(file: string): string | undefined {
  const digits = /^([0-9a-f]{12})\.port$/.exec(file)?.[1];
  return digits?.match(/../g)?.join(':');
}

/** True for a file of the folder that only a living switch has a use for. */
export function belongsToSwitch(file: string): boolean {
  return file.endsWith(SWITCH_END) || file === 'switch.sock';
}
