import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { TshyveError, run } from '../../driver/base/index.js';
import type { World } from './world.js';

const RESOLVER = '127.0.0.9';

/** A network namespace that stands for a host, with what may be changed in it thrown away at the end. */
export class Namespace {
  readonly name = `tsb${String(process.pid)}`;
  readonly env: NodeJS.ProcessEnv;
  readonly #world: World;
  readonly #guests: string[] = [];
  readonly #children: ChildProcess[] = [];

  constructor(world: World) {
    this.#world = world;
    this.env = world.env;
    world.env['TSHYVE_NETWORKS'] = join(world.folder, 'networks');
    world.env['PATH'] = `${world.env['PATH'] ?? ''}:/usr/sbin:/sbin`;
  }

  /** @throws TshyveError `precondition` without root */
  async open(): Promise<void> {
    if (process.getuid?.() !== 0) {
      throw new TshyveError('precondition', 'Network namespaces need root: run this benchmark as root.');
    }
    await this.#world.run('ip', ['netns', 'add', this.name]);
    // ip-netns(8) lays this over /etc inside the namespace.
    mkdirSync(join('/etc/netns', this.name), { recursive: true });
    writeFileSync(join('/etc/netns', this.name, 'resolv.conf'), `nameserver ${RESOLVER}\n`);
    await this.run('ip', 'link', 'set', 'lo', 'up');
  }

  async run(program: string, ...args: string[]): Promise<string> {
    return (await this.#world.run('ip', ['netns', 'exec', this.name, program, ...args])).stdout;
  }

  /** Runs our own command in the namespace. */
  tshyve(...args: string[]): Promise<string> {
    return this.run(process.execPath, this.#world.parts.tshyve.path, '-s', this.#world.store, ...args);
  }

  /** Starts a program that runs until the end. @param name of the namespace, if not this one */
  spawn(program: string, args: readonly string[], name = this.name): ChildProcess {
    const child = spawn('ip', ['netns', 'exec', name, program, ...args], {
      env: this.env,
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    this.#children.push(child);
    return child;
  }

  /** Another namespace with one interface, `eth0`, on a bridge of this one. @returns its name */
  async guest(bridge: string, mac: string): Promise<string> {
    const guest = `${this.name}g`;
    const on = (...args: string[]) => this.#world.run('ip', ['-n', guest, ...args]);
    await this.#world.run('ip', ['netns', 'add', guest]);
    this.#guests.push(guest);
    await this.run('ip', 'link', 'add', 'v1', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', guest);
    await this.run('ip', 'link', 'set', 'v1', 'master', bridge, 'up');
    await on('link', 'set', 'lo', 'up');
    await on('link', 'set', 'eth0', 'address', mac, 'up');
    return guest;
  }

  /**
   * Never rejects: what the benchmark said before matters more.
   * @param networks to take down
   */
  async close(networks: readonly string[] = []): Promise<void> {
    for (const child of this.#children) child.kill('SIGKILL');
    // Also after an interruption, whose signal has fired.
    const quietly = (...args: string[]) => run('ip', args, { env: this.env }).catch(() => undefined);
    const { path } = this.#world.parts.tshyve;
    for (const network of networks) {
      await quietly('netns', 'exec', this.name, process.execPath, path, 'network', 'down', '--force', network);
    }
    for (const guest of this.#guests) await quietly('netns', 'delete', guest);
    await quietly('netns', 'delete', this.name);
    rmSync(join('/etc/netns', this.name), { recursive: true, force: true });
  }
}
