import { type FSWatcher, existsSync, rmSync, watch } from 'node:fs';
import { type Server, type Socket, createServer } from 'node:net';
import { rm, writeFile } from 'node:fs/promises';

import { type FileLock, listenPrivately, lockFile, makeRunDirectory, messageOf, sleep } from '../base/index.js';
import type { SupervisorPlace } from './place.js';

const SETTLE_MS = 50;
/** Whoever looks at a machine takes its lock for some milliseconds. */
const LOCK_TIMEOUT_MS = 5_000;

export interface GuardOptions {
  readonly place: SupervisorPlace;
  readonly id: string;
  readonly log: (line: string) => void;
  readonly onConnection: (socket: Socket) => void;
  /** The run folder is there, the first time or again: the status file is wanted. */
  readonly onRunFolder: () => Promise<void>;
  /** Somebody deleted the machine's folder: there is nothing left to run for. */
  readonly onMachineDeleted: () => void;
}

/**
 * The lock file and the socket of a supervisor, which may be deleted under it: by a cleaner of /tmp, by hand, by a client
 * that gives up on its plugin and deletes the machine's folder. What is missed comes back; a deleted machine is told.
 */
export class GuardedFiles {
  readonly #options: GuardOptions;
  readonly #watchers = new Set<FSWatcher>();
  /** Never released: the kernel does that when this process ends, however it ends. */
  readonly #locks: FileLock[] = [];
  #server: Server | undefined;
  #closed = false;

  private constructor(options: GuardOptions) {
    this.#options = options;
  }

  /** Takes the lock. @throws TshyveError `busy` when another supervisor runs this machine */
  static async lock(options: GuardOptions): Promise<GuardedFiles> {
    const files = new GuardedFiles(options);
    await files.#lock();
    return files;
  }

  /** Makes the run folder and accepts connections there. */
  async listen(): Promise<void> {
    const { place, id, onConnection, onRunFolder } = this.#options;
    if (this.#closed) return;
    await makeRunDirectory(id);
    await rm(place.socket, { force: true });
    this.#server?.close();
    this.#server = createServer((socket) => {
      socket.on('error', () => undefined);
      onConnection(socket);
    });
    await listenPrivately(this.#server, place.socket);
    await onRunFolder();
    this.#watch(place.runDirectory, [place.socket, place.statusFile], () => this.listen());
  }

  /** Takes the run folder away. */
  close(): void {
    this.#closed = true;
    for (const watcher of this.#watchers) watcher.close();
    this.#server?.close();
    rmSync(this.#options.place.runDirectory, { recursive: true, force: true });
  }

  async #lock(): Promise<void> {
    const { place, log } = this.#options;
    this.#locks.push(await lockFile(place.lock, { timeoutMs: LOCK_TIMEOUT_MS }));
    // See knownPlace. A full disk must not keep a machine from starting.
    await writeFile(place.lock, `${place.runDirectory}\n`).catch((error: unknown) => {
      log(`lock note: ${messageOf(error)}`);
    });
    this.#watch(place.lock, [place.lock], async () => {
      if (existsSync(place.machineDirectory)) await this.#lock();
      else this.#options.onMachineDeleted();
    });
  }

  /** Calls once when one of the files is gone. */
  #watch(path: string, needed: readonly string[], onGone: () => Promise<void>): void {
    const complete = () => needed.every((file) => existsSync(file));
    const act = async () => {
      this.#options.log(`Something was deleted: ${needed.join(' or ')}`);
      // Whoever deletes a folder may still be at it.
      await sleep(SETTLE_MS);
      await onGone();
    };
    const watcher = watch(path, () => {
      if (this.#closed || complete() || !this.#watchers.delete(watcher)) return;
      watcher.close();
      act().catch((error: unknown) => {
        this.#options.log(`${path} cannot be made again: ${messageOf(error)}`);
      });
    });
    watcher.on('error', () => undefined);
    this.#watchers.add(watcher);
  }
}
