import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';

import type { Command } from 'commander';

import { type Log, TshyveError, messageOf, within } from '../base/index.js';
import {
  NetworkKeeper,
  type NetworkReport,
  checkNetworkName,
  inspectNetwork,
  listNetworks,
  networkPlace,
  removeNetwork,
} from '../network/index.js';
import type { Context } from './context.js';
import { table } from './list.js';

const UP_TIMEOUT_MS = 30_000;
/** What the keeper writes once the network is up; anything else on its standard output is why it is not. */
const READY = 'ready';
const ALREADY_UP = 'up already';

type Action = (run: (context: Context, ...args: never[]) => Promise<void>) => (...args: unknown[]) => Promise<void>;

/** `tshyve network …`: shared networks, on which machines reach each other and the host reaches them. */
export function addNetworkCommands(program: Command, action: Action): void {
  const network = program
    .command('network')
    .description('shared networks, on which machines reach each other (Linux; needs root once per network)')
    .addHelpText('after', '\nExample:\n  sudo tshyve network up\n  tshyve create dev --network shared');
  network
    .command('up [name]')
    .description('bring a network up (default name: shared); it stays up until "down" or a reboot of the host')
    .option('--foreground', 'keep it up as long as this command runs, for a service manager')
    .action(
      action((context, name: string | undefined, options: { foreground?: boolean }) =>
        options.foreground === true ? keep(name ?? 'shared') : up(context, name ?? 'shared'),
      ),
    );
  network
    .command('down [name]')
    .description('take a network down and forget it')
    .option('-f, --force', 'also when machines are attached')
    .action(
      action(async (context, name: string | undefined, options: { force?: boolean }) => {
        await removeNetwork(name ?? 'shared', { force: options.force === true });
        context.operation.log.info(`Network "${name ?? 'shared'}" is down`);
      }),
    );
  network
    .command('ls')
    .description('list networks')
    .option('--json', 'as JSON')
    .action(
      action(async (_context, options: { json?: boolean }) => {
        const networks = await listNetworks();
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

function networkTable(networks: readonly NetworkReport[]): string {
  return table([
    ['NAME', 'STATE', 'SUBNET', 'GATEWAY', 'MACHINES'],
    ...networks.map(({ name, state, ipv4, gateway, interfaces }) => {
      return [name, state, ipv4, gateway, String(interfaces.length)];
    }),
  ]);
}

/** Starts the keeper of a network in a session of its own and waits until the network is up. */
async function up(context: Context, name: string): Promise<void> {
  const place = networkPlace(checkNetworkName(name));
  try {
    mkdirSync(place.folder, { recursive: true, mode: 0o755 });
  } catch (error) {
    throw new TshyveError(
      'precondition',
      `Cannot make ${place.folder}: ${messageOf(error)}. A network needs root once: run "sudo tshyve network up ${name}".`,
      { cause: error },
    );
  }
  const [, script = ''] = process.argv;
  const log = openSync(place.log, 'a', 0o644);
  const child = spawn(process.execPath, [script, 'network', 'up', name, '--foreground'], {
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
    const answer = await within(answered, UP_TIMEOUT_MS, `the network "${name}"`, context.operation.signal);
    if (answer === ALREADY_UP) {
      context.operation.log.info(`Network "${name}" is up already`);
      return;
    }
    if (answer !== READY) throw parseFailure(answer, place.log);
  } catch (error) {
    child.kill('SIGTERM');
    throw error;
  } finally {
    child.unref();
    stdout.destroy();
  }
  const { ipv4, gateway } = await inspectNetwork(name);
  context.operation.log.info(`Network "${name}" is up: ${ipv4}, the host is ${gateway}`);
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
async function keep(name: string): Promise<void> {
  const write = (line: string) => process.stderr.write(`${new Date().toISOString()} ${line}\n`);
  const log: Log = { info: write, debug: write };
  process.on('SIGHUP', () => undefined);
  // The one who started us has gone by the time anything more is said.
  process.stdout.on('error', () => undefined);
  let keeper: NetworkKeeper;
  try {
    keeper = await NetworkKeeper.start(name, log);
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
