import { spawn } from 'node:child_process';

import { TshyveError, codeOf } from '../base/index.js';
import type { Context } from './context.js';

/** `tshyve ssh NAME [COMMAND...]`: hands over to the ssh program, which knows terminals best. Ends with its exit code. */
export async function ssh(context: Context, name: string, command: readonly string[]): Promise<void> {
  const driver = await context.store.load(name);
  const host = await driver.getSSHHostname();
  const args = [
    '-F',
    '/dev/null',
    '-o',
    'StrictHostKeyChecking=no',
    '-o',
    'UserKnownHostsFile=/dev/null',
    '-o',
    'LogLevel=ERROR',
  ];
  args.push('-o', 'IdentitiesOnly=yes', '-i', driver.getSSHKeyPath(), '-p', String(await driver.getSSHPort()));
  // A destination cannot be taken for an option: user names are validated, hosts are addresses.
  args.push(`${driver.getSSHUsername()}@${host}`, ...command);
  // Ctrl-C is for the command in the guest.
  process.removeAllListeners('SIGINT').on('SIGINT', () => undefined);
  process.exitCode = await new Promise<number>((resolve, reject) => {
    const child = spawn('ssh', args, { stdio: 'inherit' });
    child.on('error', (error) => {
      reject(
        codeOf(error) === 'ENOENT'
          ? new TshyveError('precondition', 'The program "ssh" was not found on the PATH. Install an OpenSSH client.')
          : error,
      );
    });
    child.on('close', (code) => {
      resolve(code ?? 1);
    });
  });
}
