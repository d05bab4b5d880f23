import { readFile, writeFile } from 'node:fs/promises';

import { TshyveError, codeOf, run } from '../../base/index.js';
import { type Subnet, parseSubnet } from './subnet.js';

const TIMEOUT_MS = 15_000;

/**
 * Runs a program that changes the host's network.
 * @throws TshyveError `precondition` that names the fix when the program or the permission is missing
 */
export async function must(program: string, args: readonly string[], input?: string): Promise<string> {
  const options = { timeoutMs: TIMEOUT_MS, env: commandEnvironment(), ...(input === undefined ? {} : { input }) };
  const { code, stdout, stderr } = await run(program, args, options);
  if (code === 0) return stdout;
  const said = stderr.trim().split('\n').slice(-3).join(' ');
  if (/not permitted|permission denied|must be root/i.test(said)) {
    throw new TshyveError(
      'precondition',
      `Changing the host's network needs root or CAP_NET_ADMIN, once per network: run "sudo tshyve network up". (${program}: ${said})`,
    );
  }
  throw new TshyveError('precondition', `"${program} ${args.join(' ')}" failed: ${said}`);
}

/** ip, nft and dnsmasq live in sbin, which a user's PATH may lack. */
export function commandEnvironment(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/local/sbin:/usr/sbin:/sbin`, LC_ALL: 'C' };
}

/** Every IPv4 network the host has a route to, the default route left out: those must not be used again. */
export async function routedSubnets(): Promise<Subnet[]> {
  return parseRoutes(await must('ip', ['-j', '-4', 'route', 'show', 'table', 'all']));
}

/** Parses `ip -j route` (ip-route(8)). */
export function parseRoutes(json: string): Subnet[] {
  let rows: unknown;
  try {
    rows = JSON.parse(json === '' ? '[]' : json);
  } catch {
    return [];
  }
  if (!Array.isArray(rows)) return [];
  return (rows as unknown[]).flatMap((row) => {
    const destination = typeof row === 'object' && row !== null && 'dst' in row ? row.dst : undefined;
    const subnet = typeof destination === 'string' ? parseSubnet(destination) : undefined;
    return subnet === undefined || subnet.length === 0 ? [] : [subnet];
  });
}

/** True when the host reaches the internet over IPv6. */
export async function hasIPv6(): Promise<boolean> {
  return (await must('ip', ['-j', '-6', 'route', 'show', 'default'])).includes('"default"');
}

/**
 * Sets a kernel setting (sysctl(8) path with slashes), unless it has the value.
 * @returns the value before, or undefined when nothing was changed
 */
export async function setSysctl(name: string, value: string): Promise<string | undefined> {
  const path = `/proc/sys/${name}`;
  try {
    const before = (await readFile(path, 'utf8')).trim();
    if (before === value) return undefined;
    await writeFile(path, value);
    return before;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw new TshyveError('precondition', `Cannot set ${path} to ${value}: run as root.`, { cause: error });
  }
}
