import { spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';

import type { Command } from 'commander';

import { type Log, TshyveError, messageOf, ownProgram, within } from '../base/index.js';
import {
  NetworkKeeper,
  type NetworkReport,
  type Permitted,
  accountId,
  checkNetworkName,
  inspectNetwork,
  installUnit,
  listNetworks,
  networkPlace,
  notifySystemd,
  ownNetworksFolder,
  permit,
  removeNetwork,
  removeUnit,
  requireTun,
  startUnit,
  unitName,
} from '../network/index.js';
import { type UserNetworkReport, listUserNetworks } from '../user-network/index.js';
import type { Action, Context } from './context.js';
import { table } from './list.js';

const UP_TIMEOUT_MS = 30_000;
/** What the keeper writes once the network is up; anything else on its standard output is why it is not. */
const READY = 'ready';
const ALREADY_UP = 'up already';

/** `tshyve network …`: shared networks, on which machines reach each other and the host reaches them. */
export function addNetworkCommands(program: Command, action: Action): void {
  const network = program
    .command('network')
    .description(
      'shared networks, on which machines reach each other (Linux; with root once per network, or without any)',
    )
    .addHelpText('after', '\nExample:\n  sudo tshyve network up\n  tshyve create dev --network shared');
  network
    .command('up [name]')
    .description('bring a network up (default name: shared); it stays up until "down" or a reboot of the host')
    .option(
      '--rootless',
      'one of your own, in a network namespace, without root; machines are reached at loopback addresses',
    )
    .option('--foreground', 'keep it up as long as this command runs, for a service manager')
    .option('--boot', 'bring it up at each boot of the host too, by a systemd unit that "down" removes')
    .option('--user <name>', 'who may attach machines without root, instead of those said before; repeatable', collect)
    .option('--group <name>', 'the same for all members of a group', collect)
    .action(
      action(async (context, name: string | undefined, options: UpOptions) => {
        const permitted = await permittedBy(options);
        const { rootless } = networkPlace(checkNetworkName(name ?? 'shared'));
        const begin = async () => {
          if (options.foreground === true) await keep(name ?? 'shared', permitted);
          else await up(context, name ?? 'shared', permitted, options.boot === true);
        };
        if (rootless || options.rootless === true) await requireOwn(name ?? 'shared', options);
        if (options.rootless === true && !rootless) await makingFolder(name ?? 'shared', begin);
        else await begin();
      }),
    );
  network
    .command('down [name]')
    .description('take a network down and forget it')
    .option('-f, --force', 'also when machines are attached')
    .action(
      action(async (context, name: string | undefined, options: { force?: boolean }) => {
        const { rootless } = networkPlace(name ?? 'shared');
        await removeNetwork(name ?? 'shared', { force: options.force === true });
        if (!rootless) await removeUnit(name ?? 'shared');
        context.operation.log.info(`Network "${name ?? 'shared'}" is down`);
      }),
    );
  network
    .command('ls')
    .description('list networks')
    .option('--json', 'as JSON')
    .action(
      action(async (_context, options: { json?: boolean }) => {
        const networks = [...(await listNetworks()), ...(await listUserNetworks())];
        process.stdout.write(options.json === true ? `${JSON.stringify(networks, null, 2)}\n` : networkTable(networks));
      }),
    );
  network
    .command('inspect [name]')
    .description('show a network as JSON')
    .action(
      action(async (_context, name: string | undefined) => {
        process.stdout.write(`${JSON.stringify(await inspectNetwork(name ?? 'shared'), null, 2)}\n`);
      }),
    );
}

interface UpOptions {
  readonly rootless?: boolean;
  readonly foreground?: boolean;
  readonly boot?: boolean;
  readonly user?: readonly string[];
  readonly group?: readonly string[];
}

/** Makes the folder of a network of one's own, which decides whose it is; it goes if the network does not come up. */
async function makingFolder(name: string, begin: () => Promise<void>): Promise<void> {
  const place = networkPlace(name);
  if (existsSync(place.definition)) {
    throw new TshyveError(
      'usage',
      `There is a network "${name}" of this host already. Choose another name: "tshyve network up --rootless mine".`,
    );
  }
  const folder = join(ownNetworksFolder(), name);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  try {
    await begin();
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    throw error;
  }
}

async function requireOwn(name: string, options: UpOptions): Promise<void> {
  if (options.user !== undefined || options.group !== undefined || options.boot === true) {
    throw new TshyveError(
      'usage',
      `The network "${name}" is your own: nobody else can attach machines to it, and no unit of the system can bring it up. Leave out --user, --group and --boot.`,
    );
  }
  await requireTun();
}

function collect(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value];
}

/** @returns undefined when nobody was said: it stays as it is */
async function permittedBy({ user, group }: UpOptions): Promise<Permitted | undefined> {
  if (user === undefined && group === undefined) return undefined;
  return {
    users: await Promise.all((user ?? []).map((name) => accountId('user', name))),
    groups: await Promise.all((group ?? []).map((name) => accountId('group', name))),
  };
}

function networkTable(networks: readonly (NetworkReport | UserNetworkReport)[]): string {
  return table([
    ['NAME', 'STATE', 'SUBNET', 'GATEWAY', 'MACHINES'],
    ...networks.map(({ name, state, ipv4, gateway, interfaces }) => {
      return [name, state, ipv4, gateway, String(interfaces.length)];
    }),
  ]);
}

/** Brings a network up, and has that done at each boot if asked to. */
async function up(context: Context, name: string, permitted: Permitted | undefined, boot: boolean): Promise<void> {
  const { log, signal } = context.operation;
  const place = networkPlace(checkNetworkName(name));
  try {
    mkdirSync(place.folder, { recursive: true, mode: 0o755 });
    closeSync(openSync(place.log, 'a', 0o644));
  } catch (error) {
    throw new TshyveError(
      'precondition',
      `Cannot write in ${place.folder}: ${messageOf(error)}. A network of this host needs root once: run "sudo tshyve network up ${name}"; one of your own needs none: "tshyve network up --rootless ${name}".`,
      { cause: error },
    );
  }
  const { file, args } = ownProgram('tshyve');
  const bySystemd = boot && (await installUnit(name, [file, ...args]));
  if ((await inspectNetwork(name).catch(() => undefined))?.state === 'up') {
    if (permitted !== undefined) await permit(name, permitted);
    log.info(`Network "${name}" is up already`);
  } else {
    if (bySystemd) {
      await startUnit(name);
      if (permitted !== undefined) await permit(name, permitted);
    } else await startKeeper(name, permitted, signal);
    const { ipv4, gateway, rootless } = await inspectNetwork(name);
    const where = rootless ? 'its machines are reached at loopback addresses' : `the host is ${gateway}`;
    log.info(`Network "${name}" is up: ${ipv4}, ${where}`);
  }
  if (boot) log.info(`It comes up at each boot: ${unitName(name)}${bySystemd ? '' : ' (systemd does not run now)'}`);
}

/** Starts the keeper of a network in a session of its own and waits until the network is up. */
async function startKeeper(name: string, permitted: Permitted | undefined, signal: AbortSignal): Promise<void> {
  const place = networkPlace(name);
  const log = openSync(place.log, 'a', 0o644);
  const who = [
    ...(permitted?.users ?? []).flatMap((id) => ['--user', String(id)]),
    ...(permitted?.groups ?? []).flatMap((id) => ['--group', String(id)]),
  ];
  const { file, args, argv0 } = ownProgram('tshyve');
  const child = spawn(file, [...args, 'network', 'up', name, '--foreground', ...who], {
    argv0,
    cwd: '/',
    detached: true,
    stdio: ['ignore', 'pipe', log],
  });
  closeSync(log);
  const { stdout } = child;
  if (stdout === null) throw new TshyveError('internal', 'A pipe to the keeper of the network could not be made.');
  const answered = new Promise<string>((resolve, reject) => {
    let text = '';
    stdout.setEncoding('utf8');
    stdout.on('data', (chunk: string) => {
      text += chunk;
      if (text.includes('\n')) resolve(text.trim());
    });
    stdout.on('close', () => {
      resolve(text.trim());
    });
    child.on('error', reject);
  });
  try {
    const answer = await within(answered, UP_TIMEOUT_MS, `the network "${name}"`, signal);
    if (answer === ALREADY_UP) {
      // Somebody else was faster.
      if (permitted !== undefined) await permit(name, permitted);
    } else if (answer !== READY) throw parseFailure(answer, place.log);
  } catch (error) {
    child.kill('SIGTERM');
    throw error;
  } finally {
    child.unref();
    stdout.destroy();
  }
}

function parseFailure(answer: string, log: string): TshyveError {
  try {
    const value: unknown = JSON.parse(answer);
    if (typeof value === 'object' && value !== null && 'message' in value && typeof value.message === 'string') {
      return new TshyveError('precondition', value.message);
    }
  } catch {
    // Not ours: it ended before it could say anything.
  }
  return new TshyveError('internal', `The keeper of the network ended at once; ${log} says why.`);
}

/** The keeper itself: holds the network up until a signal ends it. */
async function keep(name: string, permitted: Permitted | undefined): Promise<void> {
  const write = (line: string) => process.stderr.write(`${new Date().toISOString()} ${line}\n`);
  const log: Log = { info: write, debug: write };
  // Other commands take it for the end of their terminal.
  process.removeAllListeners('SIGHUP');
  process.on('SIGHUP', () => undefined);
  // The one who started us has gone by the time anything more is said.
  process.stdout.on('error', () => undefined);
  let keeper: NetworkKeeper;
  try {
    keeper = await NetworkKeeper.start(name, log, permitted);
  } catch (error) {
    if (TshyveError.is(error, 'busy')) {
      process.stdout.write(`${ALREADY_UP}\n`);
      return;
    }
    write(messageOf(error));
    process.stdout.write(`${JSON.stringify({ message: messageOf(error) })}\n`);
    process.exitCode = 1;
    return;
  }
  process.stdout.write(`${READY}\n`);
  await notifySystemd().catch((error: unknown) => write(messageOf(error)));
  // Sent when somebody else may attach machines now.
  process.on('SIGHUP', () => {
    keeper.reload().catch((error: unknown) => write(messageOf(error)));
  });
  await new Promise<void>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.removeAllListeners(signal);
      process.on(signal, () => {
        resolve();
      });
    }
  });
  await keeper.stop();
}
