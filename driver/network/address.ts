import { createHash } from 'node:crypto';
import { mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { TshyveError, codeOf, exists, fileError, tshyveHome } from '../base/index.js';

/**
 * Each machine of a user-mode network has a loopback address of its own, so that all can use the standard ports. All of
 * 127.0.0.0/8 is local on Linux (RFC 1122 3.2.1.3); 127.64.0.0/10 stays clear of 127.0.0.53 and the like. macOS has
 * 127.0.0.1 only.
 */
const TRIES = 64;

/**
 * Reserves the address of a machine; asks again give the same one. A reservation is a file named by the address that
 * holds the machine's folder, made exclusively; it is void once that folder is gone.
 * @throws TshyveError `no-space`, `precondition`, or `internal` when no address is free
 */
export async function claimAddress(machineDirectory: string): Promise<string> {
  if (process.platform !== 'linux') return '127.0.0.1';
  const registry = registryPath();
  try {
    await mkdir(registry, { recursive: true, mode: 0o700 });
    const known = await claimedBy(registry, machineDirectory);
    if (known !== undefined) return known;
    for (let attempt = 0; attempt < TRIES; attempt++) {
      const address = candidate(machineDirectory, attempt);
      if (await reserve(join(registry, address), machineDirectory)) return address;
    }
  } catch (error) {
    throw fileError(`reserve an address in ${registry}`, error);
  }
  throw new TshyveError('internal', `No free loopback address was found. Remove stale files from ${registry}.`);
}

/** Gives the address of a machine back; fine when it has none. */
export async function releaseAddress(machineDirectory: string): Promise<void> {
  const registry = registryPath();
  const address = await claimedBy(registry, machineDirectory);
  if (address !== undefined) await rm(join(registry, address), { force: true });
}

function registryPath(): string {
  return join(tshyveHome(), 'addresses');
}

async function claimedBy(registry: string, machineDirectory: string): Promise<string | undefined> {
  let names: string[];
  try {
    names = await readdir(registry);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
  for (const name of names) {
    const owner = await readFile(join(registry, name), 'utf8').catch(() => '');
    if (owner === machineDirectory) return name;
  }
  return undefined;
}

function candidate(machineDirectory: string, attempt: number): string {
  const hash = createHash('sha256')
    .update(`${machineDirectory}\0${String(attempt)}`)
    .digest();
  const [a = 0, b = 0, c = 0] = hash;
  // Neither .0 nor .255: some programs take them for network and broadcast addresses.
  return `127.${String(64 + (a & 63))}.${String(b)}.${String(1 + (c % 254))}`;
}

async function reserve(path: string, machineDirectory: string): Promise<boolean> {
  try {
    await writeFile(path, machineDirectory, { flag: 'wx', mode: 0o600 });
    return true;
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error;
  }
  const owner = await readFile(path, 'utf8').catch(() => '');
  // An empty file is a claim that is being written this moment.
  if (owner === '' || (await exists(owner))) return false;
  // Void: its machine is gone. Whoever deletes it may still lose the race for making it anew.
  await rm(path, { force: true });
  return reserve(path, machineDirectory);
}
