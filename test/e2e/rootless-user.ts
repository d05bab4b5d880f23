import {
  appendFileSync,
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
} from 'node:fs';
import { join, resolve } from 'node:path';

import { expect } from 'vitest';

import { type RunResult, run } from '../../driver/base/index.js';
import type { Host } from './network-host.js';

const program = resolve(import.meta.dirname, '../../dist/tshyve.cjs');

/** A user of a host without any privilege, with a home of their own. */
export class RootlessUser {
  readonly host: Host;
  readonly uid: number;
  readonly home: string;
  readonly env: NodeJS.ProcessEnv;

  /**
   * @param host that is open
   * @param uid nobody else's
   */
  constructor(host: Host, uid: number) {
    this.host = host;
    this.uid = uid;
    this.home = join(host.folder, `home-${String(uid)}`);
    mkdirSync(this.home);
    chownSync(this.home, uid, uid);
    // ssh(1) wants to know who calls it. ip-netns(8) lays this over /etc/passwd inside the namespace.
    const passwd = join('/etc/netns', host.name, 'passwd');
    if (!existsSync(passwd)) copyFileSync('/etc/passwd', passwd);
    appendFileSync(passwd, `user${String(uid)}:x:${String(uid)}:${String(uid)}::${this.home}:/bin/bash\n`);
    const runFolder = join(this.home, 'run');
    this.env = { ...host.env, HOME: this.home, TSHYVE_HOME: join(this.home, '.tshyve'), TSHYVE_RUN_DIR: runFolder };
  }

  /** Makes devices that all users may open, as on an ordinary host, or that none may. */
  static async makeTun(host: Host): Promise<void> {
    chmodSync(host.folder, 0o755);
    for (const [name, mode] of [
      ['open', 0o666],
      ['closed', 0o600],
    ] as const) {
      const path = join(host.folder, name);
      if (!existsSync(path)) await host.must('mknod', path, 'c', '10', '200');
      chmodSync(path, mode);
    }
  }

  /** The words for ip(8) that run a program as this user, in the namespace that stands for the host. */
  words(tun: 'open' | 'closed', ...command: string[]): string[] {
    const bind = `mount --bind ${join(this.host.folder, tun)} /dev/net/tun && exec "$@"`;
    const uid = String(this.uid);
    const user = ['setpriv', '--reuid', uid, '--regid', uid, '--clear-groups', '--no-new-privs'];
    return ['netns', 'exec', this.host.name, 'sh', '-c', bind, 'sh', ...user, '--', ...command];
  }

  run(timeoutMs: number, ...command: string[]): Promise<RunResult> {
    return run('ip', this.words('open', ...command), { env: this.env, timeoutMs });
  }

  tshyve(...args: string[]): Promise<RunResult> {
    return this.run(120_000, process.execPath, program, ...args);
  }

  async ok(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.tshyve(...args);
    expect(code, `tshyve ${args.join(' ')}: ${stdout}${stderr}`).toBe(0);
    return stdout;
  }

  /** Living processes of this user, by their command line. */
  processes(word: string): number[] {
    return readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .filter((pid) => {
        try {
          const status = readFileSync(`/proc/${pid}/status`, 'utf8');
          const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
          return new RegExp(`^Uid:\\s+${String(this.uid)}\\s`, 'm').test(status) && line !== '' && line.includes(word);
        } catch {
          return false;
        }
      })
      .map(Number);
  }
}
