import { spawn } from 'node:child_process';
import { closeSync, existsSync, openSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';

import { TshyveError, messageOf, within } from '../base/index.js';
import { supervisorPlace } from './place.js';
import { type LaunchAnswer, type LaunchRequest, parseLaunchAnswer } from './types.js';

const LAUNCH_TIMEOUT_MS = 60_000;
/** Reading all memory of a large machine from a slow disk takes minutes. */
const RESUME_TIMEOUT_MS = 900_000;

/**
 * Starts the supervisor of a machine in a session of its own and resolves once the guest runs. The supervisor is on
 * its own from its first instruction: this process may die at any moment.
 * @throws TshyveError whatever kept it from launching, `busy` when the machine is already running
 */
export async function startSupervisor(request: LaunchRequest, signal: AbortSignal): Promise<void> {
  const place = supervisorPlace(request);
  const log = openSync(place.supervisorLog, 'a', 0o600);
  const [program = process.execPath, ...args] = supervisorCommand();
  const child = spawn(program, [...args, '--launch'], {
    cwd: '/',
    detached: true,
    env: childEnvironment(),
    stdio: ['pipe', log, log, 'pipe'],
  });
  closeSync(log);
  const answered = new Promise<LaunchAnswer>((resolve, reject) => {
    let text = '';
    const pipe = child.stdio[3] as Readable;
    pipe.setEncoding('utf8');
    pipe.on('data', (chunk: string) => {
      text += chunk;
    });
    pipe.on('error', () => undefined);
    pipe.on('close', () => {
      const answer = parseLaunchAnswer(text);
      if (answer !== undefined) resolve(answer);
      else {
        reject(
          new TshyveError(
            'hypervisor',
            `The supervisor ended before the machine ran; ${place.supervisorLog} says why.`,
          ),
        );
      }
    });
    child.on('error', (error) => {
      reject(
        new TshyveError('internal', `Cannot start the supervisor ${program}: ${messageOf(error)}.`, { cause: error }),
      );
    });
  });
  child.stdin?.on('error', () => undefined);
  child.stdin?.end(JSON.stringify(request));
  try {
    const answer = await within(
      answered,
      request.resume === true ? RESUME_TIMEOUT_MS : LAUNCH_TIMEOUT_MS,
      'the supervisor to launch the machine',
      signal,
    );
    if ('error' in answer) throw new TshyveError(answer.error.kind, answer.error.message);
  } catch (error) {
    // Not launched, or nobody waits for it any more.
    child.kill('SIGKILL');
    throw error;
  } finally {
    child.unref();
    for (const stream of child.stdio) (stream as { destroy?: () => void } | null)?.destroy?.();
  }
}

/** The program to run: `TSHYVE_VMM` (a path), or the one that was built beside this code. */
function supervisorCommand(): string[] {
  const override = process.env['TSHYVE_VMM'];
  const here = dirname(fileURLToPath(import.meta.url));
  const candidates = [
    ...(override === undefined || override === '' ? [] : [override]),
    join(here, 'tshyve-vmm.cjs'),
    join(here, '..', 'tshyve-vmm.cjs'),
    // Running from the sources, as unit tests do.
    join(here, '..', '..', 'dist', 'tshyve-vmm.cjs'),
  ];
  const found = candidates.find((path) => existsSync(path));
  if (found === undefined) {
    throw new TshyveError('internal', 'The program tshyve-vmm is missing from this installation. Run "npm run build".');
  }
  return [process.execPath, found];
}

/** The supervisor lives on: it must not take itself for a plugin, nor keep what a shell had for one command. */
function childEnvironment(): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(process.env).filter(([name]) => {
      return !name.startsWith('MACHINE_PLUGIN_') && name !== 'NODE_OPTIONS' && name !== 'NODE_EXTRA_CA_CERTS';
    }),
  );
}
