import { readFile } from 'node:fs/promises';

import { codeOf, fileError } from './errors.js';

/**
 * Reads a text file that need not be there.
 * @returns undefined when it, or the folder it would lie in, does not exist
 * @throws TshyveError `precondition`, `internal` for every other reason
 */
export async function readTextIfPresent(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return undefined;
    throw fileError(`read ${path}`, error);
  }
}
