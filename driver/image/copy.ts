import { randomBytes } from 'node:crypto';
import { constants, copyFile, rename, rm, stat } from 'node:fs/promises';

import { fileError } from '../base/index.js';

/** Copies an image, sharing its blocks where the file system can. The target appears whole or not at all. */
export async function copyImage(from: string, to: string): Promise<void> {
  const temporary = `${to}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    await copyFile(from, temporary, constants.COPYFILE_FICLONE);
    await rename(temporary, to);
  } catch (error) {
    await rm(temporary, { force: true });
    throw fileError(`copy the image to ${to}`, error);
  }
}

/**
 * A cheap fingerprint of a file. docker-machine's `upgrade` overwrites a machine's ISO in place; the stamp tells.
 */
export async function imageStamp(path: string): Promise<string> {
  const { size, mtimeMs, ino } = await stat(path);
  return `${String(size)}-${String(mtimeMs)}-${String(ino)}`;
}
