import type { Command } from 'commander';

import { readManifest } from '../base/index.js';
import type { Context } from './context.js';

/** The `tshyve` command. */
export async function main(argv: readonly string[]): Promise<void> {
  const { buildProgram } = await import('./program.js');
  const program: Command = buildProgram(readManifest().version);
  await program.parseAsync([...argv], { from: 'user' });
}

export type { Context };
