import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import type { Readable } from 'node:stream';

import { within } from './deadline.js';
import { ANSWER_FD, type DetachedAnswer, parseDetachedAnswer } from './detached-answer.js';
import { TshyveError, messageOf } from './errors.js';
import { ownProgram } from './own-program.js';

export interface DetachedOptions {
  /** Which of our programs: `tshyve-vmm`. */
  readonly program: string;
  readonly args: readonly string[];
  /** File that takes its standard output and error. */
  readonly log: string;
  readonly input?: string;
  /** What is waited for, as a noun phrase. */
  readonly what: string;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/**
 * Starts one of our long-lived processes in a session of its own and resolves with its answer. It is on its own from its
 * first instruction: this process may die at any moment.
 * @throws TshyveError `timeout`, `cancelled`; `hypervisor` when it ended without an answer. It is ended then
 */
export async function startDetached(options: DetachedOptions): Promise<void> {
  const log = openSync(options.log, 'a', 0o600);
  const { file, args, argv0 } = ownProgram(options.program);
  const child = spawn(file, [...args, ...options.args], {
    argv0,
    cwd: '/',
    detached: true,
    env: childEnvironment(),
    stdio: ['pipe', log, log, 'pipe'],
  });
  closeSync(log);
  const answered = new Promise<DetachedAnswer>((resolve, reject) => {
    let text = '';
    const pipe = child.stdio[ANSWER_FD] as Readable;
    pipe.setEncoding('utf8');
    pipe.on('data', (chunk: string) => {
      text += chunk;
    });
    pipe.on('error', () => undefined);
    pipe.on('close', () => {
      const answer = parseDetachedAnswer(text);
      if (answer !== undefined) resolve(answer);
      else reject(new TshyveError('hypervisor', `Gave up on ${options.what}: ${options.log} says why.`));
    });
    child.on('error', (error) => {
      reject(
        new TshyveError('internal', `Cannot start ${options.program} (${file}): ${messageOf(error)}.`, {
          cause: error,
        }),
      );
    });
  });
  child.stdin?.on('error', () => undefined);
  child.stdin?.end(options.input);
  let answer: DetachedAnswer;
  try {
    answer = await within(answered, options.timeoutMs, options.what, options.signal);
  } catch (error) {
    // Nobody waits for it any more.
    child.kill('SIGKILL');
    throw error;
  } finally {
    child.unref();
    for (const stream of child.stdio) (stream as { destroy?: () => void } | null)?.destroy?.();
  }
  if ('error' in answer) throw new TshyveError(answer.error.kind, answer.error.message);
}

/** It lives on: it must not take itself for a plugin, nor keep what a shell had for one command. */
function childEnvironment(): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(process.env).filter(([name]) => {
      return !name.startsWith('MACHINE_PLUGIN_') && name !== 'NODE_OPTIONS' && name !== 'NODE_EXTRA_CA_CERTS';
    }),
  );
}
