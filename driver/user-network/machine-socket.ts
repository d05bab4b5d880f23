import { type FSWatcher, watch } from 'node:fs';
import { type FileHandle, lstat, open, rm, symlink } from 'node:fs/promises';
import { dirname } from 'node:path';

import { type Log, codeOf, messageOf } from '../base/index.js';

/** <fcntl.h>; Node has no name for it. It opens the file without what is behind: a socket cannot be opened otherwise. */
const O_PATH = 0o10_000_000;

/**
 * The machine's end of its port at a switch, a unix socket that its hypervisor has bound. The switch finds it by its path,
 * which a cleaner of /tmp may delete, and no hypervisor binds it again. As long as somebody holds the file, it is there
 * still: a link to the held descriptor (proc(5), /proc/PID/fd) leads to it.
 */
export class MachineSocket {
  readonly #path: string;
  readonly #log: Log;
  #held: { readonly file: FileHandle; readonly inode: number } | undefined;
  #watcher: FSWatcher | undefined;
  #last: Promise<void> = Promise.resolve();

  constructor(path: string, log: Log) {
    this.#path = path;
    this.#log = log;
  }

  /** Looks after it from now on; to be called again when its folder was made anew. */
  guard(): void {
    this.#watcher?.close();
    try {
      this.#watcher = watch(dirname(this.#path), () => {
        this.#look();
      });
      this.#watcher.on('error', () => undefined);
    } catch (error) {
      // The folder is gone this moment; whoever makes it calls again.
      if (codeOf(error) !== 'ENOENT') this.#log.info(messageOf(error));
    }
    this.#look();
  }

  async close(): Promise<void> {
    this.#watcher?.close();
    this.#watcher = undefined;
    await this.#last;
    await this.#held?.file.close();
    this.#held = undefined;
    await rm(this.#path, { force: true });
  }

  #look(): void {
    this.#last = this.#last.then(async () => {
      try {
        await this.#holdOrRestore();
      } catch (error) {
        // Its folder went this moment, or a guest that restarts has it bound again.
        if (codeOf(error) !== 'ENOENT' && codeOf(error) !== 'EEXIST') this.#log.info(messageOf(error));
      }
    });
  }

  async #holdOrRestore(): Promise<void> {
    if (this.#watcher === undefined) return;
    const status = await lstat(this.#path).catch(() => undefined);
    if (status?.isSocket() === true && status.ino !== this.#held?.inode) {
      // A guest that restarts has another one.
      const file = await open(this.#path, O_PATH);
      await this.#held?.file.close();
      this.#held = { file, inode: status.ino };
    } else if (status === undefined && this.#held !== undefined) {
      await symlink(`/proc/${String(process.pid)}/fd/${String(this.#held.file.fd)}`, this.#path);
      this.#log.info(`The machine's end of its network, ${this.#path}, was deleted; it is back.`);
    }
  }
}
