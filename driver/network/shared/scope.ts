import { readFileSync } from 'node:fs';
import { readFile, readlink } from 'node:fs/promises';

import { TshyveError } from '../../base/index.js';
import { must } from './host.js';

/**
 * The network namespace a shared network lives in: this process' own, or one that belongs to an unprivileged user and
 * is entered for each command (nsenter(1)).
 */
export class Scope {
  /** Some process of the namespace; undefined: ours. */
  readonly #pid: number | undefined;

  constructor(pid?: number) {
    this.#pid = pid;
  }

  /** The words that run a program in here. */
  command(program: string, args: readonly string[]): [string, string[]] {
    if (this.#pid === undefined) return [program, [...args]];
    const entry = ['--target', String(this.#pid), '--user', '--net', '--preserve-credentials'];
    return ['nsenter', [...entry, '--', program, ...args]];
  }

  /** Runs a program in here; see `must`. */
  must(program: string, args: readonly string[], input?: string): Promise<string> {
    return must(...this.command(program, args), input);
  }

  /** By proc(5), which shows each process its own namespace; sysfs shows the one it was mounted in. */
  interfaceExists(name: string): boolean {
    try {
      const table = readFileSync(`/proc/${String(this.#pid ?? 'self')}/net/dev`, 'utf8');
      return table.split('\n').some((line) => line.trimStart().startsWith(`${name}:`));
    } catch {
      return false;
    }
  }

  /** Interfaces that are ports of a bridge. */
  async bridgePorts(bridge: string): Promise<string[]> {
    if (!this.interfaceExists(bridge)) return [];
    const lines = await this.must('ip', ['-o', 'link', 'show', 'master', bridge]).catch(() => '');
    return [...lines.matchAll(/^\d+: ([^:@\s]+)/gm)].map((match) => match[1] ?? '');
  }

  /** True when the kernel has this setting (sysctl(8) path with slashes) in here. */
  async hasSysctl(name: string): Promise<boolean> {
    return this.must('test', ['-e', `/proc/sys/${name}`]).then(
      () => true,
      () => false,
    );
  }

  /** Sets a kernel setting of this namespace. */
  async setSysctl(name: string, value: string): Promise<void> {
    await this.must('tee', [`/proc/sys/${name}`], value);
  }
}

/** The namespace of this process. */
export const ownScope = new Scope();

/** True when a process is in the network namespace of this one. @throws TshyveError `precondition` when it is gone */
export async function isOwnNamespace(pid: number): Promise<boolean> {
  try {
    return (await readlink(`/proc/${String(pid)}/ns/net`)) === (await readlink('/proc/self/ns/net'));
  } catch (error) {
    throw new TshyveError('precondition', `Process ${String(pid)} is not there, or not ours.`, { cause: error });
  }
}

/** When a process began, in clock ticks since the boot (proc(5), field 22 of stat); undefined when it is gone. */
export async function startTime(pid: number): Promise<string | undefined> {
  const stat = await readFile(`/proc/${String(pid)}/stat`, 'utf8').catch(() => '');
  // The second field may hold spaces and parentheses.
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
}
