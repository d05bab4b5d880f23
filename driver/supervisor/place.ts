import { join } from 'node:path';

import { checkSocketPath, runRoot } from '../base/index.js';

/** Where the supervisor of one machine keeps what. */
export interface SupervisorPlace {
  readonly machineDirectory: string;
  /** Held for the life of the supervisor: the one truth about whether a machine runs. */
  readonly lock: string;
  readonly consoleLog: string;
  readonly supervisorLog: string;
  /** How the last run ended, for error messages. */
  readonly lastExit: string;
  /** Dies with a reboot; 0700. */
  readonly runDirectory: string;
  readonly socket: string;
  /** What `quickStatus` reads; only true while the socket accepts connections. */
  readonly statusFile: string;
}

/** @param id `machineId()` of the machine */
export function supervisorPlace(machineDirectory: string, id: string): SupervisorPlace {
  const runDirectory = join(runRoot(), id);
  return {
    machineDirectory,
    lock: join(machineDirectory, 'vmm.lock'),
    consoleLog: join(machineDirectory, 'console.log'),
    supervisorLog: join(machineDirectory, 'vmm.log'),
    lastExit: join(machineDirectory, 'last-exit.json'),
    runDirectory,
    socket: checkSocketPath(join(runDirectory, 'vmm.sock')),
    statusFile: join(runDirectory, 'status.json'),
  };
}
