import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, rm, rmdir } from 'node:fs/promises';
import { join } from 'node:path';

import { TshyveError, checkSocketPath, codeOf, findProgram, run, within } from '../base/index.js';
import type { LaunchOptions } from './hypervisor.js';
import type { ShareSpec } from './vm-spec.js';

/** Beside the PATH: virtiofsd's own place, Arch Linux, and QEMU up to 7.2 (Debian 12). */
const PLACES = ['/usr/libexec', '/usr/lib', '/usr/lib/virtiofsd', '/usr/lib/qemu'];
const START_TIMEOUT_MS = 10_000;
/** Bytes of its messages kept for error texts. */
const MAX_WORDS = 4_096;
/** What both implementations say once they listen; a connection to find out would be the only one they take. */
const LISTENING = 'Waiting for vhost-user socket connection';

/**
 * What runs before virtiofsd, in a mount namespace of its own and in the folder of its socket: $1 tag, $2 folder, $3 ro or
 * rw, then virtiofsd. A read-only share is one for virtiofsd already: a guest can do with its own mount as it likes.
 * QEMU's virtiofsd insists on a file in /run and on an absolute path; the folder itself, and this one, may be in /run.
 */
const PREPARE = `tag=$1 folder=$2 access=$3
shift 3
mount --make-rprivate / && mount --rbind "$folder" "$tag" && mount -t tmpfs -o mode=755 tmpfs /run &&
mkdir /run/share && mount -c --rbind "$tag" /run/share || exit
[ "$access" = rw ] || mount -o remount,bind,ro /run/share || exit
exec setpriv --pdeathsig KILL -- "$@"`;
const SERVED = '/run/share';

/** A share that is being served. */
export interface ServedShare {
  readonly tag: string;
  /** Where a vhost-user device connects, once. */
  readonly socket: string;
}

export interface ServedShares {
  readonly shares: readonly ServedShare[];
  /** Ends the daemons and takes their files away; they end by themselves as well when the device closes its connection. */
  close(): Promise<void>;
}

/** @returns the absolute path of virtiofsd, or undefined */
export function findVirtiofsd(env: NodeJS.ProcessEnv = process.env): Promise<string | undefined> {
  return findProgram('virtiofsd', env, PLACES);
}

/** @returns why this host cannot serve folders to guests, with the fix; undefined when it can */
export async function whyNoShares(env: NodeJS.ProcessEnv = process.env): Promise<string | undefined> {
  if (process.platform !== 'linux') {
    return "Folders are shared only by Apple's hypervisor here: use --tshyve-hypervisor native.";
  }
  if ((await findVirtiofsd(env)) !== undefined) return undefined;
  return 'Sharing folders takes virtiofsd, which was not found: install it, e.g. with "apt-get install virtiofsd" (Debian 12 and Ubuntu 22.04: qemu-system-common).';
}

/**
 * Serves folders to one machine, each by a virtiofsd of its own. For root it runs as root; for everybody else as root of a
 * user namespace, where the guest's root is the user, and the guest's other users are the subordinate ids of the user.
 * @throws TshyveError `precondition` with the words of whatever refused
 */
export async function serveShares(
  shares: readonly ShareSpec[],
  options: Pick<LaunchOptions, 'runDirectory' | 'log' | 'signal'>,
): Promise<ServedShares> {
  if (shares.length === 0) return { shares: [], close: () => Promise.resolve() };
  const missing = await whyNoShares();
  const program = await findVirtiofsd();
  if (missing !== undefined || program === undefined) throw new TshyveError('precondition', missing ?? '');
  const daemons: Daemon[] = [];
  const close = async () => {
    await Promise.all(daemons.map((daemon) => daemon.close()));
  };
  try {
    const isQemus = await belongsToQemu(program);
    for (const share of shares) daemons.push(await Daemon.start(program, isQemus, share, options));
  } catch (error) {
    await close();
    throw error;
  }
  return { shares: daemons.map(({ tag, socket }) => ({ tag, socket })), close };
}

/**
 * QEMU's own, in C, has other options than the one that replaced it, in Rust, which says just its version. QEMU's says
 * nothing to users other than root but that it cannot do without.
 */
async function belongsToQemu(program: string): Promise<boolean> {
  const { code, stdout } = await run(program, ['--version'], { timeoutMs: 10_000 });
  return code !== 0 || stdout.includes('FUSE kernel interface');
}

class Daemon {
  readonly tag: string;
  readonly socket: string;
  readonly #directory: string;
  readonly #folder: string;
  readonly #child: ChildProcess;
  readonly #ended: Promise<string>;
  #words = '';

  private constructor(program: string, isQemus: boolean, share: ShareSpec, folder: string, log: LaunchOptions['log']) {
    this.tag = share.tag;
    this.#directory = share.directory;
    this.#folder = folder;
    this.socket = socketOf(folder, share);
    const own = isQemus
      ? ['-f', `--socket-path=${share.tag}.sock`, '-o', `source=${SERVED}`]
      : [`--socket-path=${share.tag}.sock`, '--shared-dir', SERVED];
    const isRoot = process.getuid?.() === 0;
    const namespaces = isRoot ? ['--mount'] : ['--user', '--map-root-user', '--map-auto', '--mount'];
    const access_ = share.readOnly ? 'ro' : 'rw';
    const words = [share.tag, share.directory, access_, program, ...own];
    this.#child = spawn('unshare', [...namespaces, 'sh', '-c', PREPARE, 'sh', ...words], {
      cwd: folder,
      env: { PATH: process.env['PATH'], LC_ALL: 'C' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const hear = (chunk: Buffer) => {
      const text = chunk.toString('utf8');
      this.#words = (this.#words + text).slice(-MAX_WORDS);
      log.debug(`virtiofsd ${share.tag}: ${text.trimEnd()}`);
    };
    this.#child.stdout?.on('data', hear);
    this.#child.stderr?.on('data', hear);
    this.#ended = new Promise((resolve) => {
      this.#child.once('error', (error) => {
        resolve(codeOf(error) === 'ENOENT' ? 'unshare was not found; install util-linux' : error.message);
      });
      this.#child.once('close', (code, signal) => {
        resolve(signal === null ? `exit code ${String(code)}` : `signal ${signal}`);
      });
    });
  }

  static async start(
    program: string,
    isQemus: boolean,
    share: ShareSpec,
    { runDirectory, log, signal }: Pick<LaunchOptions, 'runDirectory' | 'log' | 'signal'>,
  ): Promise<Daemon> {
    await rm(socketOf(runDirectory, share), { force: true });
    // Where the folder is mounted in the namespace.
    await mkdir(join(runDirectory, share.tag), { recursive: true, mode: 0o700 });
    const daemon = new Daemon(program, isQemus, share, runDirectory, log);
    try {
      await within(daemon.#listens(), START_TIMEOUT_MS, `virtiofsd to serve ${share.directory}`, signal);
      return daemon;
    } catch (error) {
      await daemon.close();
      throw error;
    }
  }

  async #listens(): Promise<void> {
    const said = new Promise<boolean>((resolve) => {
      const look = () => {
        if (this.#words.includes(LISTENING)) resolve(true);
      };
      this.#child.stdout?.on('data', look);
      this.#child.stderr?.on('data', look);
    });
    const how = await Promise.race([said, this.#ended]);
    if (how === true) return;
    const hint =
      process.getuid?.() === 0
        ? rootHint(this.#words)
        : ' Users other than root need user namespaces, the program newuidmap (package uidmap) and a line of their own in /etc/subuid and /etc/subgid.';
    throw new TshyveError(
      'precondition',
      `virtiofsd does not serve ${this.#directory} (${String(how)}): ${this.#words.trim()}.${hint}`,
    );
  }

  async close(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
    await rm(this.socket, { force: true });
    await rmdir(join(this.#folder, this.tag)).catch(() => undefined);
  }
}

/** Root of a namespace with a single user, as on a network without root, is not root enough for QEMU's virtiofsd. */
function rootHint(words: string): string {
  return words.includes('setgroups')
    ? ' On a shared network without root it cannot be done: use --tshyve-network user, or a virtiofsd of 1.0 or newer.'
    : '';
}

function socketOf(folder: string, { tag }: ShareSpec): string {
  return checkSocketPath(join(folder, `${tag}.sock`));
}
