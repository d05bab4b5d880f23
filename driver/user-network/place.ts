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

/** @throws TshyveError `usage` for a name that is none */
export function userNetworkPlace(name: string): UserNetworkPlace {
  const id = `net-${checkNetworkName(name)}`;
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

/** True for a file of the folder that only a living switch has a use for. */
export function belongsToSwitch(file: string): boolean {
  return file.endsWith(SWITCH_END) || file === 'switch.sock';
}
