import type { Command } from 'commander';

import { codeOf, readManifest } from '../base/index.js';
import type { Context } from './context.js';

/** The `tshyve` command. */
export async function main(argv: readonly string[]): Promise<void> {
  // Whoever reads our output has enough of it, as `head` does.
  process.stdout.on('error', (error) => {
    if (codeOf(error) !== 'EPIPE') throw error;
    process.exit(0);
  });
  const { buildProgram } = await import('./program.js');
  const program: Command = buildProgram(readManifest().version);
  await program.parseAsync([...argv], { from: 'user' });
}

export type { Context };
