import { randomBytes } from 'node:crypto';
import { chmod, constants, copyFile, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';

import { fileError } from './errors.js';

/**
 * Replaces a file in one step: a reader sees the old text or the new one, also after a power cut.
 * The temporary file lives in the same directory, because rename(2) is atomic only within one file system.
 * @throws TshyveError `no-space`, `precondition` or `internal`; the old file is untouched then
 */
export async function writeFileAtomic(path: string, data: string | Uint8Array, mode = 0o600): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    const file = await open(temporary, 'wx', mode);
    try {
      await file.writeFile(data);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw fileError(`write ${path}`, error);
  }
  await syncDirectory(dirname(path));
}

/**
 * Copies a file, sharing its blocks where the file system can. The target appears whole or not at all; it is not made
 * durable, since it can be copied again.
 * @param action what the error says could not be done
 * @param mode permissions of the copy; without it the original's
 * @throws TshyveError as {@link fileError} makes it; an old target is untouched then
 */
export async function copyFileAtomic(from: string, to: string, action: string, mode?: number): Promise<void> {
  const temporary = `${to}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    await copyFile(from, temporary, constants.COPYFILE_FICLONE);
    if (mode !== undefined) await chmod(temporary, mode);
    await rename(temporary, to);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw fileError(action, error);
  }
}

/** Makes a rename durable. Some file systems refuse to sync a directory; that is not an error of ours. */
async function syncDirectory(path: string): Promise<void> {
  try {
    const directory = await open(path, 'r');
    try {
      await directory.sync();
    } finally {
      await directory.close();
    }
  } catch {
    // The data is complete either way; only its survival of a power cut in the next seconds is at stake.
  }
}
