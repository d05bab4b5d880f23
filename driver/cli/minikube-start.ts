import { spawn } from 'node:child_process';

import { TshyveError, codeOf } from '../base/index.js';
import { shellQuote } from '../guest/index.js';
import type { TshyveDriver } from '../machine/index.js';
import type { Context } from './context.js';
import { create } from './create.js';
import { minikubeFlags, sshAccess } from './minikube-args.js';

export interface MinikubeStartOptions {
  readonly name: string;
  readonly dryRun?: boolean;
}

/** minikube's provisioners know hosts by os-release; our image takes its identity from the kernel command line. */
const IDENTITY = 'tshyve.identity=buildroot';

/** `tshyve minikube start`: makes or starts the machine and hands it to the user's own minikube. */
export async function startMinikube(
  context: Context,
  args: readonly string[],
  { name, dryRun }: MinikubeStartOptions,
): Promise<void> {
  const driver = await existing(context, name);
  if (driver !== undefined) requireIdentity(driver);
  const running = driver !== undefined && (await driver.getState()) === 'running';
  if (dryRun === true) {
    process.stdout.write(plannedCommands(name, driver === undefined ? 'create' : running ? 'none' : 'start', args));
    return;
  }
  if (driver === undefined) await create(context, name, new Map([['tshyve-cmdline', IDENTITY]]));
  else if (!running) {
    await driver.start(context.operation);
    await context.store.save(driver);
  }
  const access = await sshAccess(await context.store.load(name));
  process.exitCode = await runMinikube(['start', ...minikubeFlags(name, access), ...args]);
}

/** What `start` does, as commands for a shell, one a line. */
export function plannedCommands(name: string, need: 'create' | 'start' | 'none', args: readonly string[]): string {
  const first = need === 'create' ? `tshyve create ${name} --cmdline ${IDENTITY}` : `tshyve start ${name}`;
  const start = ['minikube start', `$(tshyve minikube args ${name})`, ...args.map(shellQuote)].join(' ');
  return [...(need === 'none' ? [] : [first]), start, ''].join('\n');
}

async function existing({ store }: Context, name: string): Promise<TshyveDriver | undefined> {
  try {
    return await store.load(name);
  } catch (error) {
    if (TshyveError.is(error, 'not-found')) return undefined;
    throw error;
  }
}

/** @throws TshyveError `precondition` when minikube would not know how to provision the machine */
function requireIdentity(driver: TshyveDriver): void {
  if (driver.kernelArguments.includes(IDENTITY)) return;
  const name = driver.machineName;
  throw new TshyveError(
    'precondition',
    `Machine "${name}" was not made for minikube, which would not recognise its system. Give another --name, or remove it first ("tshyve rm ${name}").`,
  );
}

function runMinikube(args: readonly string[]): Promise<number> {
  // Ctrl-C is for minikube, which cleans up after itself.
  process.removeAllListeners('SIGINT').on('SIGINT', () => undefined);
  return new Promise((resolve, reject) => {
    const child = spawn('minikube', args, { stdio: 'inherit' });
    child.on('error', (error) => {
      reject(
        codeOf(error) === 'ENOENT'
          ? new TshyveError(
              'precondition',
              'The program "minikube" was not found on the PATH. Install it; the machine is ready and waits for it.',
            )
          : error,
      );
    });
    child.on('close', (code) => {
      resolve(code ?? 1);
    });
  });
}
