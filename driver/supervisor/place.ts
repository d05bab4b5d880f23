import { readFile } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join } from 'node:path';

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

/** A machine as its clients name it. */
export interface MachineReference {
  readonly machineDirectory: string;
  /** `machineId()` of the machine */
  readonly id: string;
}

/** Where a supervisor that we start now keeps its things. @param root folder of all run folders */
export function supervisorPlace({ machineDirectory, id }: MachineReference, root = runRoot()): SupervisorPlace {
  const runDirectory = join(root, id);
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

/**
 * Where the supervisor of a machine keeps its things, or its predecessor did. It writes its run folder into its lock
 * file, since XDG_RUNTIME_DIR and the like may be another (or missing) where it was started: in cron, under sudo.
 */
export async function knownPlace(machine: MachineReference): Promise<SupervisorPlace> {
  const usual = supervisorPlace(machine);
  const noted = (await readFile(usual.lock, 'utf8').catch(() => '')).trim();
  return isAbsolute(noted) && basename(noted) === machine.id ? supervisorPlace(machine, dirname(noted)) : usual;
}
