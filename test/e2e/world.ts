import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { expect } from 'vitest';

import { run } from '../../driver/base/index.js';

const root = resolve(import.meta.dirname, '../..');
const client = join(root, 'test/conformance/bin/docker-machine');
/** The guest image that scripts/test.sh has built. */
export const image = join(root, 'iso/out/tshyve-amd64.iso');

const missing = [client, image, join(root, 'dist/tshyve.cjs')].filter((path) => !existsSync(path));
if (missing.length > 0) console.warn(`These tests need ${missing.join(', ')}: run scripts/test.sh`);
/** True where a real part is missing that this machine may do without; CI may not. */
export const cannotRun = missing.length > 0 && process.env['CI'] !== 'true';

export interface Result {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** A world of its own for the unmodified docker-machine: store, home, run folder, PATH with the plugin. */
export class World {
  readonly folder = mkdtempSync(join(tmpdir(), 'tse-'));
  readonly store = join(this.folder, 'store');
  readonly runFolder = join(this.folder, 'run');
  readonly addresses = join(this.folder, 'home/addresses');
  readonly client = client;
  readonly env: NodeJS.ProcessEnv;

  constructor() {
    const bin = join(this.folder, 'bin');
    mkdirSync(bin);
    symlinkSync(join(root, 'dist/docker-machine-driver-tshyve.cjs'), join(bin, 'docker-machine-driver-tshyve'));
    this.env = {
      ...process.env,
      PATH: `${bin}:${process.env['PATH'] ?? ''}`,
      TSHYVE_HOME: join(this.folder, 'home'),
      TSHYVE_RUN_DIR: this.runFolder,
      MACHINE_BUGSNAG_API_TOKEN: 'no-report',
      // `docker-machine env` refuses to guess without it, and CI has no login shell.
      SHELL: '/bin/bash',
    };
  }

  machineFolder(name: string): string {
    return join(this.store, 'machines', name);
  }

  /** Runs docker-machine. */
  async machine(...args: string[]): Promise<Result> {
    const options = { env: this.env, timeoutMs: 300_000 };
    const { code, stdout, stderr } = await run(client, ['-s', this.store, ...args], options);
    return { code, out: stdout.trim(), err: stderr.trim() };
  }

  /** Runs docker-machine and expects success. */
  async ok(...args: string[]): Promise<string> {
    const result = await this.machine(...args);
    expect(result.code, `docker-machine ${args.join(' ')}: ${result.out}\n${result.err}`).toBe(0);
    return result.out;
  }

  /** Living processes that carry this world in their command line or environment. */
  processes(): string[] {
    const found: string[] = [];
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)) {
      try {
        const text = readFileSync(`/proc/${pid}/cmdline`, 'utf8') + readFileSync(`/proc/${pid}/environ`, 'utf8');
        const state = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.[0];
        if (text.includes(this.folder) && state !== 'Z')
          found.push(`${pid} ${text.slice(0, 200).replaceAll('\0', ' ')}`);
      } catch {
        // Gone meanwhile.
      }
    }
    return found;
  }

  /** Expects that nothing of a machine is left. */
  async expectGone(name: string): Promise<void> {
    // The client does not wait for its plugin, and an aborted create cleans up after its client has died.
    await expect.poll(() => this.processes(), { timeout: 15_000 }).toEqual([]);
    expect(existsSync(this.machineFolder(name))).toBe(false);
    expect(existsSync(this.addresses) ? readdirSync(this.addresses) : []).toEqual([]);
  }

  async close(): Promise<void> {
    const machines = join(this.store, 'machines');
    if (existsSync(machines)) await this.machine('rm', '-f', '-y', ...readdirSync(machines));
    rmSync(this.folder, { recursive: true, force: true });
  }
}
