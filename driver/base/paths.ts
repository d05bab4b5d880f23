import { createHash } from 'node:crypto';
import type { Stats } from 'node:fs';
import { chmod, lstat, mkdir } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';

import { TshyveError, codeOf } from './errors.js';

/** sun_path is 104 bytes on macOS, 108 on Linux, with the final NUL. Node 20 truncates longer paths silently. */
const MAX_SOCKET_PATH_BYTES = 103;

/** Our own home: image cache, settings, and the machines of the `tshyve` command. `TSHYVE_HOME` overrides. */
export function tshyveHome(env: NodeJS.ProcessEnv = process.env): string {
  return nonEmpty(env['TSHYVE_HOME']) ?? join(homedir(), '.tshyve');
}

/** Short folder for sockets and other things that die with a reboot. `TSHYVE_RUN_DIR` overrides. */
export function runRoot(env: NodeJS.ProcessEnv = process.env): string {
  const override = nonEmpty(env['TSHYVE_RUN_DIR']);
  if (override !== undefined) return override;
  const runtime = nonEmpty(env['XDG_RUNTIME_DIR']);
  if (process.platform === 'linux' && runtime !== undefined) return join(runtime, 'tshyve');
  return join(process.platform === 'linux' ? '/tmp' : tmpdir(), `tshyve-${String(process.getuid?.() ?? 0)}`);
}

/** Stable short name of a machine: two stores may hold machines of one name. */
export function machineId(storePath: string, machineName: string): string {
  return createHash('sha256').update(storePath).update('\0').update(machineName).digest('hex').slice(0, 16);
}

/** Makes a folder (and its parents) that only we can enter, and refuses one that somebody else owns. */
export async function makePrivateDirectory(path: string): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o700 });
  const status = await lstat(path);
  if (!status.isDirectory() || !isOurs(status)) throw foreignFolder(path);
  if ((status.mode & 0o077) !== 0) await chmod(path, 0o700);
}

/** Makes a folder of this name in the run folder; see `hasRunRoot` for why both are checked. */
export async function makeRunDirectory(name: string): Promise<void> {
  await makePrivateDirectory(runRoot());
  await makePrivateDirectory(join(runRoot(), name));
}

/**
 * True when the run folder exists. Its default place is /tmp, where anybody may have made a folder or a link of that
 * name before us: whoever owns it could put sockets and status files of their own there.
 * @throws TshyveError `precondition` when it is somebody else's, or others may write to it
 */
export async function hasRunRoot(path = runRoot()): Promise<boolean> {
  try {
    const status = await lstat(path);
    if (!status.isDirectory() || !isOurs(status) || (status.mode & 0o022) !== 0) throw foreignFolder(path);
    return true;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return false;
    throw error;
  }
}

function isOurs(status: Stats): boolean {
  const uid = process.getuid?.();
  return uid === undefined || status.uid === uid;
}

function foreignFolder(path: string): TshyveError {
  return new TshyveError(
    'precondition',
    `${path} is not a folder that only the current user can change. Remove it, or set TSHYVE_RUN_DIR to a folder of your own.`,
  );
}

/** Returns the path when a unix socket can be bound there. @throws TshyveError `precondition` when it is too long */
export function checkSocketPath(path: string): string {
  const length = Buffer.byteLength(path);
  if (length > MAX_SOCKET_PATH_BYTES) {
    throw new TshyveError(
      'precondition',
      `The socket path ${path} has ${String(length)} bytes; the limit is ${String(MAX_SOCKET_PATH_BYTES)}. Set TSHYVE_RUN_DIR to a shorter folder.`,
    );
  }
  return path;
}

/** True when something (also a dangling link) has this path. */
export async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return false;
    throw error;
  }
}

function nonEmpty(value: string | undefined): string | undefined {
  return value === undefined || value === '' ? undefined : value;
}
