import { spawn } from 'node:child_process';
import { readFile, rm } from 'node:fs/promises';

import * as v from 'valibot';

import { TshyveError, messageOf, readTextIfPresent, sleep, within, writeFileAtomic } from '../../base/index.js';
import { type NetworkPlace, networkIsDown, networkPlace } from './definition.js';
import { commandEnvironment } from './host.js';
import { Scope, isOwnNamespace, ownScope, startTime } from './scope.js';

const START_TIMEOUT_MS = 10_000;
const END_TIMEOUT_MS = 5_000;

/** A process that does nothing keeps the namespace: the keeper may die, and machines may come and go. */
const schema = v.object({ pid: v.pipe(v.number(), v.integer(), v.minValue(2)), startTime: v.string() });

/** A user and network namespace of an unprivileged user (user_namespaces(7)), in which they are root. */
export interface Namespace {
  /** The process that keeps it. */
  readonly pid: number;
  readonly scope: Scope;
}

/** The namespace of a network that lives in one, made if it is not there. @throws TshyveError `precondition` */
export async function openNamespace(place: NetworkPlace): Promise<Namespace> {
  const known = await livingHolder(place);
  if (known !== undefined) return { pid: known, scope: new Scope(known) };
  const pid = await startHolder();
  const scope = new Scope(pid);
  await writeFileAtomic(place.namespace, `${JSON.stringify({ pid, startTime: await startTime(pid) })}\n`);
  try {
    // Ubuntu's AppArmor lets everybody make one, and nobody do anything in it.
    await scope.must('ip', ['link', 'set', 'lo', 'up']);
  } catch (error) {
    await endNamespace(place);
    throw await forbidden(messageOf(error));
  }
  return { pid, scope };
}

/** Ends the process that keeps a network's namespace; the kernel removes all that is in it when the machines end. */
export async function endNamespace(place: NetworkPlace): Promise<void> {
  const pid = await livingHolder(place);
  if (pid !== undefined) {
    process.kill(pid, 'SIGKILL');
    const deadline = performance.now() + END_TIMEOUT_MS;
    while ((await livingHolder(place)) !== undefined && performance.now() < deadline) await sleep(10);
  }
  await rm(place.namespace, { force: true });
}

/** Where a network lives: the namespace of this process, or its own; undefined when that is not there. */
export async function scopeOf(network: string): Promise<Scope | undefined> {
  const place = networkPlace(network);
  if (!place.rootless) return ownScope;
  const pid = await livingHolder(place);
  if (pid === undefined) return undefined;
  // Nobody can enter the user namespace they are in (setns(2)).
  return (await isOwnNamespace(pid)) ? ownScope : new Scope(pid);
}

/**
 * The process whose namespace machines of a network have to be started in; undefined: they start where we are.
 * @throws TshyveError `precondition` when it is not there
 */
export async function namespaceToEnter(network: string): Promise<number | undefined> {
  const place = networkPlace(network);
  if (!place.rootless) return undefined;
  const pid = await livingHolder(place);
  if (pid === undefined) {
    throw networkIsDown(network);
  }
  return (await isOwnNamespace(pid)) ? undefined : pid;
}

async function livingHolder(place: NetworkPlace): Promise<number | undefined> {
  const text = (await readTextIfPresent(place.namespace)) ?? '';
  const parsed = v.safeParse(v.pipe(v.string(), v.parseJson(), schema), text);
  if (!parsed.success) return undefined;
  const { pid, startTime: begun } = parsed.output;
  const stat = await readFile(`/proc/${String(pid)}/stat`, 'latin1').catch(() => '');
  // A zombie has no namespace any more.
  if (stat.includes(') Z ')) return undefined;
  return (await startTime(pid)) === begun ? pid : undefined;
}

async function startHolder(): Promise<number> {
  // It says a word once it is in its namespaces, and waits from then on.
  const child = spawn(
    'unshare',
    ['--user', '--map-root-user', '--net', '--', 'sh', '-c', 'echo && exec sleep infinity'],
    {
      cwd: '/',
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: commandEnvironment(),
    },
  );
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    said = (said + chunk).slice(-2000);
  });
  const ready = new Promise<boolean>((resolve, reject) => {
    child.stdout.once('data', () => {
      resolve(true);
    });
    child.once('error', reject);
    child.once('close', () => {
      resolve(false);
    });
  });
  try {
    const isReady = await within(ready, START_TIMEOUT_MS, 'unshare');
    if (isReady && child.pid !== undefined) return child.pid;
  } catch (error) {
    child.kill('SIGKILL');
    throw error;
  } finally {
    child.unref();
    child.stdout.destroy();
    child.stderr.destroy();
  }
  throw await forbidden(said.trim());
}

/** Kernel settings that keep users from namespaces, the value that does so, and the one that does not. */
const switches = [
  ['kernel/apparmor_restrict_unprivileged_userns', '1', '0'],
  ['kernel/unprivileged_userns_clone', '0', '1'],
  ['user/max_user_namespaces', '0', '10000'],
  ['user/max_net_namespaces', '0', '10000'],
] as const;

/** Says which setting of this host forbids it. */
async function forbidden(reason: string): Promise<TshyveError> {
  const values = await Promise.all(
    switches.map(([path]) =>
      readFile(`/proc/sys/${path}`, 'utf8').then(
        (text) => text.trim(),
        () => undefined,
      ),
    ),
  );
  const found = switches.filter(([, bad], index) => values[index] === bad);
  const fixes = found.map(([path, , good]) => `"sudo sysctl -w ${path.replaceAll('/', '.')}=${good}"`).join(' and ');
  const advice =
    fixes === ''
      ? 'A security policy of this host (seccomp of a container, SELinux, AppArmor) may be why.'
      : `Allow them with ${fixes}.`;
  return new TshyveError(
    'precondition',
    `This host does not let you make a network namespace of your own, which a network without root lives in. ${advice} "sudo tshyve network up" makes one with root. (${reason})`,
  );
}
