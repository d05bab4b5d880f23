import { basename } from 'node:path';

import { TshyveError } from '../base/index.js';
import { shellQuote } from '../guest/index.js';
import type { Context } from './context.js';

const names = ['DOCKER_TLS_VERIFY', 'DOCKER_HOST', 'DOCKER_CERT_PATH', 'DOCKER_MACHINE_NAME'] as const;

/** `tshyve env NAME`: shell lines that point a Docker client at the machine. */
export async function environment(
  context: Context,
  name: string,
  options: { shell?: string; unset?: boolean },
): Promise<void> {
  const shell = options.shell ?? basename(process.env['SHELL'] ?? 'sh');
  if (!['bash', 'zsh', 'sh', 'dash', 'ksh', 'fish'].includes(shell)) {
    throw new TshyveError('usage', `The shell "${shell}" is not supported: give --shell bash, zsh, sh or fish.`);
  }
  const driver = await context.store.load(name);
  const url = options.unset === true ? '' : await driver.getURL();
  const values: Record<(typeof names)[number], string> = {
    DOCKER_TLS_VERIFY: '1',
    DOCKER_HOST: url,
    DOCKER_CERT_PATH: context.store.certificates,
    DOCKER_MACHINE_NAME: name,
  };
  const line = (variable: (typeof names)[number]) => {
    const value = shellQuote(values[variable]);
    if (options.unset === true) return shell === 'fish' ? `set -e ${variable};` : `unset ${variable}`;
    return shell === 'fish' ? `set -gx ${variable} ${value};` : `export ${variable}=${value}`;
  };
  process.stdout.write(`${names.map(line).join('\n')}\n`);
  const hint = shell === 'fish' ? `tshyve env ${name} | source` : `eval "$(tshyve env ${name})"`;
  process.stdout.write(`# Run this command to configure your shell:\n# ${hint}\n`);
}
