import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { type RunResult, TshyveError, machineId, run } from '../../driver/base/index.js';

/** Something a benchmark runs that other commands build. */
export interface Part {
  readonly path: string;
  /** The command that makes it. */
  readonly made: string;
}

/** Paths of everything that is measured, below the checkout's root. */
export function parts(root: string) {
  const part = (path: string, made: string): Part => ({ path: join(root, path), made });
  return {
    tshyve: part('dist/tshyve.cjs', 'npm run build'),
    plugin: part('dist/docker-machine-driver-tshyve.cjs', 'npm run build'),
    client: part('test/conformance/bin/docker-machine', 'test/conformance/build.sh'),
    goPlugin: part('test/conformance/bin/docker-machine-driver-idle', 'test/conformance/build.sh'),
    image: part('iso/out/tshyve-amd64.iso', 'iso/build.sh'),
  } as const;
}

export type PartName = keyof ReturnType<typeof parts>;

const COMMAND_TIMEOUT_MS = 300_000;

/** Folders, environment and programs of one benchmark run; everything in it disappears with `close`. */
export class World {
  readonly parts: ReturnType<typeof parts>;
  readonly folder = mkdtempSync(join(tmpdir(), 'tsb-'));
  readonly store = join(this.folder, 'store');
  readonly env: NodeJS.ProcessEnv;
  readonly #signal: AbortSignal;
  #machine: Promise<string> | undefined;

  constructor(root: string, signal: AbortSignal) {
    this.parts = parts(root);
    this.#signal = signal;
    const bin = join(this.folder, 'bin');
    mkdirSync(bin);
    symlinkSync(this.parts.plugin.path, join(bin, 'docker-machine-driver-tshyve'));
    symlinkSync(this.parts.goPlugin.path, join(bin, 'docker-machine-driver-idle'));
    const { NODE_EXTRA_CA_CERTS: _, ...env } = process.env;
    // Node 20 reads NODE_EXTRA_CA_CERTS at start, which takes longer than all of the plugin.
    this.env = {
      ...env,
      PATH: `${bin}:${process.env['PATH'] ?? ''}`,
      TSHYVE_HOME: join(this.folder, 'home'),
      TSHYVE_RUN_DIR: join(this.folder, 'run'),
      MACHINE_BUGSNAG_API_TOKEN: 'no-report',
      SHELL: '/bin/sh',
    };
  }

  /** Runs a program that must succeed. @throws TshyveError with its last words */
  async run(program: string, args: readonly string[]): Promise<RunResult> {
    const options = { env: this.env, timeoutMs: COMMAND_TIMEOUT_MS, signal: this.#signal };
    const result = await run(program, args, options);
    if (result.code !== 0) {
      const said = `${result.stdout}\n${result.stderr}`.trim().split('\n').slice(-12).join('\n');
      throw new TshyveError('internal', `${[program, ...args].join(' ')} failed:\n${said}`);
    }
    return result;
  }

  /** Runs our own command on this world's store. */
  tshyve(...args: string[]): Promise<RunResult> {
    return this.run(process.execPath, [this.parts.tshyve.path, '-s', this.store, ...args]);
  }

  /** Makes a machine with Docker. @returns its name */
  async create(name: string, memoryMiB: number): Promise<string> {
    await this.tshyve('create', '--memory', String(memoryMiB), name);
    return name;
  }

  /** What the supervisor of a running machine says about itself. */
  async status(name: string): Promise<{ readonly supervisorPid: number; readonly vmPid: number }> {
    const path = join(this.folder, 'run', machineId(this.store, name), 'status.json');
    return JSON.parse(await readFile(path, 'utf8')) as { supervisorPid: number; vmPid: number };
  }

  machineFolder(name: string): string {
    return join(this.store, 'machines', name);
  }

  /** The name of a machine with Docker that benchmarks share; the first one that asks makes it. */
  sharedMachine(): Promise<string> {
    this.#machine ??= this.create('shared', 1024);
    return this.#machine;
  }

  /** Removes all machines of the store. */
  async removeMachines(): Promise<void> {
    const machines = join(this.store, 'machines');
    const names = existsSync(machines) ? readdirSync(machines) : [];
    this.#machine = undefined;
    // Also after an interruption, whose signal has fired.
    const args = [this.parts.tshyve.path, '-s', this.store, 'rm', '-f', ...names];
    if (names.length === 0) return;
    const { code, stderr } = await run(process.execPath, args, { env: this.env, timeoutMs: COMMAND_TIMEOUT_MS });
    if (code !== 0) throw new TshyveError('internal', `The machines of ${this.store} cannot be removed: ${stderr}`);
  }

  /** What the image was built from. */
  imageManifest(): { readonly kernel: string; readonly version: string } {
    const path = join(this.parts.image.path, '../manifest.json');
    return JSON.parse(readFileSync(path, 'utf8')) as { kernel: string; version: string };
  }

  async close(): Promise<void> {
    await this.removeMachines();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
