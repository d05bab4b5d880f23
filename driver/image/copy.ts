import { stat } from 'node:fs/promises';

import { copyFileAtomic } from '../base/index.js';

/** Copies an image, sharing its blocks where the file system can. The target appears whole or not at all. */
export function copyImage(from: string, to: string): Promise<void> {
  return copyFileAtomic(from, to, `copy the image to ${to}`);
}

/**
 * A cheap fingerprint of a file. docker-machine's `upgrade` overwrites a machine's ISO in place; the stamp tells.
 */
export async function imageStamp(path: string): Promise<string> {
  const { size, mtimeMs, ino } = await stat(path);
  return `${String(size)}-${String(mtimeMs)}-${String(ino)}`;
}
