import { basename } from 'node:path';

import { TshyveError, messageOf } from './base/index.js';

/** A program of this package; argv is without node and script. */
type Main = (argv: readonly string[]) => Promise<void> | void;

/** One package, four programs: the name we are called by picks one, as with busybox. */
const programs: Record<string, () => Promise<{ main: Main }>> = {
  'docker-machine-driver-tshyve': () => import('./plugin/main.js'),
  'tshyve-switch': () => import('./user-network/main.js'),
  'tshyve-vmm': () => import('./supervisor/main.js'),
  tshyve: () => import('./cli/main.js'),
};
/** What a single executable is that somebody has renamed. */
const DEFAULT_PROGRAM = 'tshyve';

/** The single executable's way in: its links are named after the programs; nsenter(1) cannot say what it is called. */
export function startByName(called: string): Promise<void> {
  const name = process.env['TSHYVE_PROGRAM'] ?? basename(called);
  delete process.env['TSHYVE_PROGRAM'];
  return start(name in programs ? name : DEFAULT_PROGRAM);
}

/** @param name what we are called; a launcher passes its own name, so that links of any name work */
export async function start(name: string): Promise<void> {
  const program = programs[basename(name).replace(/\.cjs$/, '')];
  if (program === undefined) {
    process.stderr.write(`tshyve: unknown program name "${name}"; call it tshyve or docker-machine-driver-tshyve.\n`);
    process.exit(2);
  }
  try {
    const { main } = await program();
    await main(process.argv.slice(2));
  } catch (error) {
    const text = TshyveError.is(error) || !(error instanceof Error) ? messageOf(error) : (error.stack ?? error.message);
    process.stderr.write(`${basename(name)}: ${text}\n`);
    process.exit(1);
  }
}
