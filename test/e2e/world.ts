import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { expect } from 'vitest';

import { run } from '../../driver/base/index.js';

const root = resolve(import.meta.dirname, '../..');
/** Where test/conformance/build.sh puts a client. */
export const clientPath = (name: string) => join(root, 'test/conformance/bin', name);
const dockerMachine = clientPath('docker-machine');
/** The guest image that scripts/test.sh has built. */
export const image = join(root, 'iso/out/tshyve-amd64.iso');

/** The folder whose programs are tested: TSHYVE_E2E_PROGRAMS, the bin folder of a release, or what was built here. */
const programs = process.env['TSHYVE_E2E_PROGRAMS'];
const isBuiltHere = (folder = programs) => folder === undefined || folder === '';
const programPath = (name: string, folder = programs) =>
  folder === undefined || folder === '' ? join(root, `dist/${name}.cjs`) : resolve(folder, name);

const missing = [dockerMachine, image, programPath('tshyve')].filter((path) => !existsSync(path));
if (missing.length > 0) console.warn(`These tests need ${missing.join(', ')}: run scripts/test.sh`);
/** True where a real part is missing that this machine may do without; CI may not. */
export const cannotRun = missing.length > 0 && process.env['CI'] !== 'true';

/**
 * True in the lab machine (test/lab), which interprets its processors: time limits are longer there, and of several tests
 * that boot machines only those run that meet the hypervisor in different ways.
 */
export const inTheLab = process.env['TSHYVE_LAB'] === '1';
/** A time limit for hardware, in milliseconds, as it is on this host. */
export const within = (ms: number) => (inTheLab ? ms * 20 : ms);

/** The programs of this host without Node, its companions and whatever starts by it. @param tools a folder that is made */
function withoutNode(tools: string): string {
  mkdirSync(tools);
  for (const place of new Set((process.env['PATH'] ?? '').split(':').filter((path) => path.startsWith('/')))) {
    for (const name of listing(place).filter((name) => !/^(node|nodejs|npm|npx|corepack)$/.test(name))) {
      try {
        symlinkSync(join(place, name), join(tools, name));
      } catch {
        // An earlier folder of the PATH has it.
      }
    }
  }
  return tools;
}

function listing(place: string): string[] {
  try {
    return readdirSync(place);
  } catch {
    return [];
  }
}

export interface Result {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** A world of its own for the unmodified docker-machine: store, home, run folder, PATH with the plugin. */
export class World {
  readonly folder = mkdtempSync(join(tmpdir(), 'tse-'));
  readonly bin = join(this.folder, 'bin');
  readonly store = join(this.folder, 'store');
  readonly runFolder = join(this.folder, 'run');
  readonly addresses = join(this.folder, 'home/addresses');
  readonly client: string;
  readonly env: NodeJS.ProcessEnv;

  /**
   * @param client path of the docker-machine to drive
   * @param folder holds the programs to test, if not those that all tests use
   */
  constructor(client = dockerMachine, folder?: string) {
    this.client = client;
    const { bin } = this;
    mkdirSync(bin);
    for (const program of ['docker-machine-driver-tshyve', 'tshyve']) {
      symlinkSync(programPath(program, folder), join(bin, program));
    }
    this.env = {
      ...process.env,
      // An executable must not need the Node of this host.
      PATH: `${bin}:${isBuiltHere(folder) ? (process.env['PATH'] ?? '') : withoutNode(join(this.folder, 'tools'))}`,
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
    const options = { env: this.env, timeoutMs: 580_000 };
    const { code, stdout, stderr } = await run(this.client, ['-s', this.store, ...args], options);
    return { code, out: stdout.trim(), err: stderr.trim() };
  }

  /** Runs docker-machine and expects success. */
  async ok(...args: string[]): Promise<string> {
    const result = await this.machine(...args);
    expect(result.code, `docker-machine ${args.join(' ')}: ${result.out}\n${result.err}`).toBe(0);
    return result.out;
  }

  /** Runs our own command on the same store. */
  async tshyve(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Result> {
    const options = { env: { ...this.env, ...env }, timeoutMs: 580_000 };
    const { code, stdout, stderr } = await run(join(this.bin, 'tshyve'), ['-s', this.store, ...args], options);
    return { code, out: stdout.trim(), err: stderr.trim() };
  }

  /** Runs our own command and expects success. */
  async tshyveOk(...args: string[]): Promise<string> {
    const result = await this.tshyve(args);
    expect(result.code, `tshyve ${args.join(' ')}: ${result.out}\n${result.err}`).toBe(0);
    return result.out;
  }

  /** Expects that both commands tell this state, each within the 2 s that they have. */
  async expectState(name: string, state: 'Running' | 'Stopped' | 'Error'): Promise<void> {
    for (const look of [() => this.machine('ls', '--timeout', '1'), () => this.tshyve(['ls'])]) {
      const begun = performance.now();
      const { out } = await look();
      expect(performance.now() - begun).toBeLessThan(2000);
      expect(out).toMatch(new RegExp(`^${name} .*\\b${state}\\b`, 'im'));
    }
  }

  /** What the supervisor of the only running machine says of itself. */
  status(): { vmPid: number; supervisorPid: number; hostAddress: string } {
    const [id] = readdirSync(this.runFolder).filter((name) => /^[0-9a-f]{16}$/.test(name));
    return JSON.parse(readFileSync(join(this.runFolder, id ?? '', 'status.json'), 'utf8')) as {
      vmPid: number;
      supervisorPid: number;
      hostAddress: string;
    };
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
    await expect.poll(() => this.processes()).toEqual([]);
    expect(existsSync(this.machineFolder(name))).toBe(false);
    expect(existsSync(this.addresses) ? readdirSync(this.addresses) : []).toEqual([]);
  }

  async close(): Promise<void> {
    const machines = join(this.store, 'machines');
    if (existsSync(machines)) await this.machine('rm', '-f', '-y', ...readdirSync(machines));
    rmSync(this.folder, { recursive: true, force: true });
  }
}
