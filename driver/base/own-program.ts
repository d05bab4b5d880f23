import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { isSea } from 'node:sea';
import { fileURLToPath } from 'node:url';

import { TshyveError } from './errors.js';

/** How one of our programs is started. */
export interface OwnProgram {
  readonly file: string;
  /** What comes before the program's own arguments. */
  readonly args: readonly string[];
  /** What it is to be called; in the single executable, that is what picks the program. */
  readonly argv0: string;
}

/**
 * Finds one of our programs: what the environment names (`TSHYVE_VMM`, a path), this executable itself when it holds
 * all of them, else the script that was built beside this code.
 * @param name e.g. `tshyve-vmm`
 * @throws TshyveError `internal` when this installation lacks it
 */
export function ownProgram(name: string): OwnProgram {
  const node = { file: process.execPath, argv0: process.execPath };
  const override = process.env[name.toUpperCase().replaceAll('-', '_')] ?? '';
  if (override !== '' && existsSync(override)) return { ...node, args: [override] };
  if (isSea()) return { file: process.execPath, args: [], argv0: name };
  const here = dirname(fileURLToPath(import.meta.url));
  // Beside a chunk, or, when running from the sources as unit tests do, in dist.
  const found = [here, join(here, '..'), join(here, '..', '..', 'dist')]
    .map((folder) => join(folder, `${name}.cjs`))
    .find((path) => existsSync(path));
  if (found === undefined) {
    throw new TshyveError('internal', `The program ${name} is missing from this installation. Run "npm run build".`);
  }
  return { ...node, args: [found] };
}
