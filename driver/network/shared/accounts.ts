import { TshyveError, run } from '../../base/index.js';

/** Who, besides root, may attach machines to a network: numbers of users and groups of this host. */
export interface Permitted {
  readonly users: readonly number[];
  readonly groups: readonly number[];
}

/**
 * The number of a user or group, from its name or number.
 * @throws TshyveError `usage` when there is none
 */
export async function accountId(kind: 'user' | 'group', name: string): Promise<number> {
  if (/^\d{1,10}$/.test(name) && Number(name) < 2 ** 32 - 1) return Number(name);
  // Names may come from LDAP and the like, which only the C library knows (getent(1)).
  const database = kind === 'user' ? 'passwd' : 'group';
  const { code, stdout } = await run('getent', [database, '--', name], { timeoutMs: 10_000 });
  const id = /^\d+$/.exec(stdout.split(':')[2] ?? '')?.[0];
  if (code !== 0 || id === undefined) {
    throw new TshyveError('usage', `There is no ${kind} "${name}" on this host: "getent ${database}" lists them.`);
  }
  return Number(id);
}
