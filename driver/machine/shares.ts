import { stat } from 'node:fs/promises';
import { posix } from 'node:path';

import { TshyveError, codeOf, messageOf } from '../base/index.js';
import type { ShareSpec } from '../hypervisor/index.js';

/** A folder of the host that the guest mounts. */
export interface Share extends ShareSpec {
  /** Where the guest mounts it. */
  readonly guestDirectory: string;
}

/** Where the guest finds Rosetta. */
export const ROSETTA_TAG = 'rosetta';

/** What a mount would hide of the guest, so that it does not boot or lets nobody in. */
const NEEDED =
  /^\/((bin|boot|data|dev|etc|iso|lib|lib64|proc|root|run|sbin|sys|tmp|usr|var)|home(\/docker)?|mnt(\/data)?)?$/;
const NEEDED_BELOW = /^\/(dev|etc|iso|mnt\/data|proc|run|sys|usr)\/|^\/var\/(lib|log)(\/|$)/;
const MAX_SHARES = 16;
/** PATH_MAX of Linux, and far below what a kernel command line holds. */
const MAX_PATH = 512;
/** Of all folders together, on the kernel command line. */
const MAX_WORDS = 1024;

/**
 * Parses the values of `--tshyve-share`, each `HOSTDIR[:GUESTDIR][:ro]`.
 * @throws TshyveError `usage` that names the flag, what is wrong and how it is written
 */
export function parseShares(texts: readonly string[]): Share[] {
  const shares = texts.map((text, index) => parseShare(text, `share${String(index)}`));
  if (shares.length > MAX_SHARES) {
    throw new TshyveError(
      'usage',
      `--tshyve-share was given ${String(shares.length)} times: at most ${String(MAX_SHARES)} are possible.`,
    );
  }
  const seen = new Set<string>();
  for (const { guestDirectory } of shares) {
    if (seen.has(guestDirectory)) {
      throw new TshyveError(
        'usage',
        `--tshyve-share mounts two folders at ${guestDirectory}: give one another GUESTDIR.`,
      );
    }
    seen.add(guestDirectory);
  }
  if (shareWords(shares).join(' ').length > MAX_WORDS) {
    throw new TshyveError('usage', 'The paths of --tshyve-share are too long together: share a folder above them.');
  }
  return shares;
}

function parseShare(text: string, tag: string): Share {
  const bad = (what: string) =>
    new TshyveError('usage', `--tshyve-share is "${text}": ${what}. Write HOSTDIR[:GUESTDIR][:ro].`);
  const parts = text.split(':');
  const readOnly = parts.length > 1 && parts.at(-1) === 'ro';
  if (readOnly) parts.pop();
  if (parts.length > 2) throw bad('a path with a colon cannot be shared');
  const [host = '', guest = host] = parts;
  for (const path of [host, guest]) {
    if (!path.startsWith('/')) throw bad(`"${path}" is no absolute path`);
    if (/[\0-\x1f\x7f]/.test(path)) throw bad('a path has control characters');
    if (Buffer.byteLength(path) > MAX_PATH) throw bad(`a path has more than ${String(MAX_PATH)} bytes`);
  }
  const [directory, guestDirectory] = [plain(host), plain(guest)];
  if (NEEDED.test(guestDirectory) || NEEDED_BELOW.test(guestDirectory)) {
    const where = guest === host ? 'say with :GUESTDIR where else to mount it' : 'choose another GUESTDIR';
    throw bad(`the machine needs its own ${guestDirectory}; ${where}`);
  }
  return { tag, directory, guestDirectory, readOnly };
}

/** Without `.`, `..`, doubled and trailing slashes. */
function plain(path: string): string {
  const normal = posix.normalize(path);
  return normal.length > 1 ? normal.replace(/\/$/, '') : normal;
}

/** @throws TshyveError `usage`, `precondition` for a folder that is not there */
export async function requireFolders(shares: readonly Share[]): Promise<void> {
  for (const { directory } of shares) {
    try {
      if ((await stat(directory)).isDirectory()) continue;
    } catch (error) {
      const why = codeOf(error) === 'ENOENT' ? 'does not exist: make it, or' : `cannot be used (${messageOf(error)}):`;
      throw new TshyveError('precondition', `The shared folder ${directory} ${why} correct --tshyve-share.`, {
        cause: error,
      });
    }
    throw new TshyveError('usage', `--tshyve-share ${directory} is no folder: share the folder that it is in.`);
  }
}

/**
 * What tells the guest image to mount folders, on the kernel command line; see iso/overlay/usr/lib/tshyve/shares. A byte
 * that might end a word there is octal, as `printf %b` reads it.
 */
export function shareWords(shares: readonly Share[]): string[] {
  return shares.map(({ tag, guestDirectory, readOnly }) => {
    const path = [...Buffer.from(guestDirectory)]
      .map((byte) => (/[\w./-]/.test(String.fromCharCode(byte)) ? String.fromCharCode(byte) : octal(byte)))
      .join('');
    return `tshyve.share=${tag}:${readOnly ? 'ro' : 'rw'}:${path}`;
  });
}

function octal(byte: number): string {
  return `\\0${byte.toString(8).padStart(3, '0')}`;
}
