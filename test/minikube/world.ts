import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { expect } from 'vitest';

import { run } from '../../driver/base/index.js';

const root = resolve(import.meta.dirname, '../..');
const minikube = join(root, 'integrations/minikube/out/minikube-tshyve');
/** The guest image with what minikube wants, by iso/build.sh --minikube. */
export const image = join(root, 'iso/out/tshyve-minikube-amd64.iso');

const missing = [minikube, image, join(root, 'dist/tshyve.cjs')].filter((path) => !existsSync(path));
export const cannotRun = process.env['CI'] !== 'true' && (missing.length > 0 || process.getuid?.() !== 0);
if (cannotRun)
  console.warn(`These tests need ${['root', ...missing].join(', ')}: run scripts/test.sh --minikube or --kubernetes`);

export interface Result {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** What `minikube status --output json` says of one node. */
export interface Status {
  readonly Name: string;
  readonly Host: string;
  readonly Kubelet: string;
}

/** A home of its own for minikube and tshyve, on a host that has no network but its loopback interface. */
export class World {
  readonly folder = mkdtempSync(join(tmpdir(), 'tsm-'));
  readonly home = join(this.folder, '.minikube');
  readonly runFolder = join(this.folder, 'run');
  readonly namespace = `tsm${String(process.pid)}`;
  readonly env: NodeJS.ProcessEnv;

  constructor() {
    const bin = join(this.folder, 'bin');
    mkdirSync(bin);
    symlinkSync(join(root, 'dist/tshyve.cjs'), join(bin, 'tshyve'));
    symlinkSync(minikube, join(bin, 'minikube'));
    this.env = {
      ...process.env,
      PATH: `${bin}:${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`,
      HOME: this.folder,
      MINIKUBE_HOME: this.home,
      MINIKUBE_IN_STYLE: 'false',
      MINIKUBE_WANTUPDATENOTIFICATION: 'false',
      TSHYVE_HOME: join(this.folder, 'home'),
      TSHYVE_NETWORKS: join(this.folder, 'networks'),
      TSHYVE_RUN_DIR: this.runFolder,
    };
  }

  async open(): Promise<void> {
    await this.host('ip', 'netns', 'add', this.namespace);
    await this.inside('ip', 'link', 'set', 'lo', 'up');
    expect(await this.inside('ip', 'route')).toBe('');
  }

  /** Runs a program on the real host. */
  async host(program: string, ...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await run(program, args, { env: this.env, timeoutMs: 580_000 });
    expect(code, `${program} ${args.join(' ')}: ${stdout}${stderr}`).toBe(0);
    return stdout.trim();
  }

  /** Runs a program on the host without a network. */
  inside(program: string, ...args: string[]): Promise<string> {
    return this.host('ip', 'netns', 'exec', this.namespace, program, ...args);
  }

  machineFolder(name: string): string {
    return join(this.home, 'machines', name);
  }

  #command(args: readonly string[]): string[] {
    return ['netns', 'exec', this.namespace, minikube, ...args];
  }

  /** Runs minikube. */
  async minikube(...args: string[]): Promise<Result> {
    const options = { env: this.env, timeoutMs: 580_000 };
    const { code, stdout, stderr } = await run('ip', this.#command(args), options);
    return { code, out: stdout.trim(), err: stderr.trim() };
  }

  /** Runs minikube and expects success; returns what it wrote to both streams. */
  async ok(...args: string[]): Promise<string> {
    const result = await this.minikube(...args);
    expect(result.code, `minikube ${args.join(' ')}: ${result.out}\n${result.err}`).toBe(0);
    return [result.out, result.err].filter((text) => text !== '').join('\n');
  }

  /** Starts minikube in a process group of its own, as a shell does. */
  spawn(...args: string[]): { child: ChildProcess; output: () => string; ended: Promise<number | null> } {
    const child = spawn('ip', this.#command(args), {
      env: this.env,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let text = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (bytes: Buffer) => {
        text += bytes.toString();
      });
    const ended = new Promise<number | null>((done) => {
      child.on('close', done);
    });
    return { child, output: () => text, ended };
  }

  /** `minikube start` without Kubernetes, for which nothing has to be fetched. */
  startArgs(profile: string, ...more: string[]): string[] {
    const machine = ['--driver=tshyve', '--no-kubernetes', `--iso-url=file://${image}`, '--memory=1024', '--cpus=2'];
    return ['start', '-p', profile, ...machine, '--disk-size=4000', '--interactive=false', '--force', ...more];
  }

  start(profile: string, ...more: string[]): Promise<string> {
    return this.ok(...this.startArgs(profile, ...more));
  }

  /** Runs a command in a machine, on a terminal as minikube always does, and expects success. */
  async ssh(profile: string, command: string, ...flags: string[]): Promise<string> {
    const args = ['ssh', '-p', profile, ...flags, '--', command];
    const result = await this.minikube(...args);
    expect(result.code, `minikube ${args.join(' ')}: ${result.out}\n${result.err}`).toBe(0);
    return result.out.replaceAll('\r', '');
  }

  async status(profile: string): Promise<{ code: number | null; nodes: Status[] }> {
    const { code, out } = await this.minikube('status', '-p', profile, '--output', 'json');
    const told = JSON.parse(out) as Status | Status[];
    return { code, nodes: Array.isArray(told) ? told : [told] };
  }

  /** Our own command, on minikube's machines. */
  async tshyve(...args: string[]): Promise<Result> {
    const command = ['netns', 'exec', this.namespace, 'tshyve', '-s', this.home, ...args];
    const { code, stdout, stderr } = await run('ip', command, { env: this.env, timeoutMs: 60_000 });
    return { code, out: stdout.trim(), err: stderr.trim() };
  }

  /** The supervisors of the machines that run. */
  supervisors(): number[] {
    const pids: number[] = [];
    for (const id of existsSync(this.runFolder) ? readdirSync(this.runFolder) : []) {
      try {
        const told: unknown = JSON.parse(readFileSync(join(this.runFolder, id, 'status.json'), 'utf8'));
        pids.push((told as { supervisorPid: number }).supervisorPid);
      } catch {
        // No machine's folder, or gone meanwhile.
      }
    }
    return pids;
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

  /** Expects that nothing of any machine is left. */
  async expectNothingLeft(): Promise<void> {
    await expect.poll(() => this.processes(), { timeout: 15_000 }).toEqual([]);
    for (const folder of ['machines', 'profiles']) {
      const path = join(this.home, folder);
      const entries = existsSync(path) ? readdirSync(path, { withFileTypes: true }) : [];
      expect(entries.filter((entry) => entry.isDirectory()).map(({ name }) => name)).toEqual([]);
    }
    const addresses = join(this.folder, 'home/addresses');
    expect(existsSync(addresses) ? readdirSync(addresses) : []).toEqual([]);
  }

  async close(): Promise<void> {
    await this.minikube('delete', '--all', '--purge');
    await this.tshyve('network', 'down', '-f', 'shared');
    await run('ip', ['netns', 'delete', this.namespace]);
    rmSync(this.folder, { recursive: true, force: true });
  }
}
