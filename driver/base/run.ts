import { spawn } from 'node:child_process';

import { TshyveError, codeOf } from './errors.js';

/** What a finished child process left behind. */
export interface RunResult {
  /** Exit code, or null when a signal ended it. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly signal?: AbortSignal;
  /** Milliseconds until the child is killed. */
  readonly timeoutMs?: number;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  readonly input?: string | Uint8Array;
  /** Bytes kept of each output stream; the rest is read and dropped. */
  readonly maxOutput?: number;
}

/**
 * Runs a program without a shell and collects its output. A non-zero exit is a result, not an error.
 * @throws TshyveError `precondition` when the program is missing, `timeout`, `cancelled`
 */
export function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const maxOutput = options.maxOutput ?? 1 << 20;
  return new Promise((resolve, reject) => {
    if (options.signal?.aborted === true) {
      reject(new TshyveError('cancelled', `${program} was not started: the operation was cancelled.`));
      return;
    }
    const child = spawn(program, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      ...(options.env === undefined ? {} : { env: options.env }),
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    const collect = (stream: NodeJS.ReadableStream): (() => string) => {
      const chunks: Buffer[] = [];
      let kept = 0;
      stream.on('data', (chunk: Buffer) => {
        if (kept < maxOutput) chunks.push(chunk.subarray(0, maxOutput - kept));
        kept += chunk.length;
      });
      return () => Buffer.concat(chunks).toString('utf8');
    };
    const stdout = collect(child.stdout);
    const stderr = collect(child.stderr);
    let ended: TshyveError | undefined;
    const kill = (reason: TshyveError) => {
      ended ??= reason;
      child.kill('SIGKILL');
    };
    const timer =
      options.timeoutMs === undefined
        ? undefined
        : setTimeout(() => {
            kill(new TshyveError('timeout', `${program} did not finish within ${String(options.timeoutMs)} ms.`));
          }, options.timeoutMs);
    const onAbort = () => {
      kill(new TshyveError('cancelled', `${program} was stopped: the operation was cancelled.`));
    };
    options.signal?.addEventListener('abort', onAbort, { once: true });
    const settle = () => {
      clearTimeout(timer);
      options.signal?.removeEventListener('abort', onAbort);
    };
    child.on('error', (error) => {
      settle();
      reject(
        codeOf(error) === 'ENOENT'
          ? new TshyveError('precondition', `The program "${program}" was not found on the PATH. Install it first.`, {
              cause: error,
            })
          : new TshyveError('internal', `Cannot run ${program}: ${error.message}.`, { cause: error }),
      );
    });
    child.on('close', (code, signal) => {
      settle();
      if (ended !== undefined) reject(ended);
      else resolve({ code, signal, stdout: stdout(), stderr: stderr() });
    });
    // A child that exits before reading its input must not crash us with EPIPE.
    child.stdin.on('error', () => undefined);
    child.stdin.end(options.input);
  });
}
