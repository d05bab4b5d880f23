import { Command, InvalidArgumentError, Option } from 'commander';

import { TshyveError, messageOf } from '../base/index.js';
import { type CreateFlag, type FlagValue, TshyveDriver } from '../machine/index.js';
import { completionScript } from './completion.js';
import { type Action, type Context, fail, makeContext } from './context.js';
import { create, parseFlag, provision } from './create.js';
import { doctor } from './doctor.js';
import { callNames, driverCall } from './driver-call.js';
import { environment } from './env.js';
import { list } from './list.js';
import { type LogOptions, logs } from './logs.js';
import { addMinikubeCommands } from './minikube.js';
import { addNetworkCommands } from './network.js';
import { addPortCommands } from './port.js';
import { ssh } from './ssh.js';

const exitCodesHelp = `
Exit codes: 0 done, 1 other failure, 2 wrong usage, 3 no such machine or file, 4 machine exists already,
  5 machine not running, 6 machine busy, 7 host lacks something, 8 disk full, 9 timeout, 130 interrupted.`;

/** The whole command line, with help. */
export function buildProgram(version: string): Command {
  const program = new Command('tshyve')
    .description('Linux virtual machines with Docker, in seconds')
    .version(version)
    .enablePositionalOptions()
    .option('-s, --storage-path <folder>', 'folder of the machines (docker-machine uses ~/.docker/machine)')
    .option('-D, --debug', 'say what happens in detail')
    .showHelpAfterError('(tshyve --help shows what is possible)')
    .configureOutput({
      outputError: (text, write) => {
        write(text.replace(/^error: /, 'tshyve: '));
      },
    })
    .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2))
    .addHelpText('after', exitCodesHelp);
  const action =
    (run: (context: Context, ...args: never[]) => Promise<void>) =>
    async (...args: unknown[]): Promise<void> => {
      const options = program.opts<{ storagePath?: string; debug?: boolean }>();
      try {
        await run(makeContext(options), ...(args as never[]));
        process.exit(process.exitCode ?? 0);
      } catch (error) {
        fail(error, options.debug === true);
      }
    };
  addCreate(program, action);
  const each = (
    name: string,
    description: string,
    done: string,
    change: (context: Context, driver: TshyveDriver) => Promise<void>,
  ) => {
    program
      .command(`${name} <machine...>`)
      .description(description)
      .addHelpText('after', examples(`${name} dev`, `${name} dev other`))
      .action(
        action(async (context, machines: string[]) => {
          for (const machine of machines) {
            const driver = await context.store.load(machine);
            await change(context, driver);
            await context.store.save(driver);
            context.operation.log.info(`Machine "${machine}" ${done}`);
          }
        }),
      );
  };
  each('start', 'start machines and wait for SSH', 'is running', (context, driver) => driver.start(context.operation));
  each('stop', 'shut machines down', 'is stopped', (context, driver) => driver.stop(context.operation));
  each('suspend', 'save machines to disk and end them; start resumes them', 'is saved', (context, driver) =>
    driver.suspend(context.operation),
  );
  each('restart', 'stop and start machines', 'is running', (context, driver) => driver.restart(context.operation));
  each('kill', 'end machines at once, as a power cut', 'is stopped', (context, driver) =>
    driver.kill(context.operation),
  );
  each('upgrade', 'install the newest guest image', 'has the newest image', (context, driver) =>
    driver.upgrade(context.operation),
  );
  each('provision', 'renew certificates and set up Docker again', 'is set up', provision);
  program
    .command('rm <machine...>')
    .description('remove machines with all their data')
    .addHelpText('after', examples('rm dev', 'rm -f damaged'))
    .option('-f, --force', 'remove also what is damaged or missing')
    .option('-y', 'accepted for compatibility; nothing is asked')
    .action(action((context, machines: string[], options: { force?: boolean }) => remove(context, machines, options)));
  program
    .command('ls')
    .description('list machines')
    .addHelpText('after', examples('ls', 'ls --json', 'ls -q'))
    .option('-q, --quiet', 'names only')
    .option('--json', 'as JSON')
    .action(action((context, options: { quiet?: boolean; json?: boolean }) => list(context, options)));
  const show = (name: string, description: string, text: (driver: TshyveDriver) => Promise<string> | string) => {
    program
      .command(`${name} <machine>`)
      .description(description)
      .addHelpText('after', examples(`${name} dev`))
      .action(
        action(async (context, machine: string) => {
          process.stdout.write(`${await text(await context.store.load(machine))}\n`);
        }),
      );
  };
  show('ip', 'print the address of a machine', (driver) => driver.getIP());
  show('url', 'print the Docker url of a machine', (driver) => driver.getURL());
  show('status', 'print the state of a machine', (driver) => driver.getState());
  show('inspect', 'print the config of a machine as JSON', (driver) => driver.getConfigRaw());
  program
    .command('env <machine>')
    .description('print what a shell needs to talk to the Docker of a machine')
    .addHelpText('after', '\nExamples:\n  eval "$(tshyve env dev)"\n  eval "$(tshyve env -u dev)"')
    .option('--shell <name>', 'bash, zsh, sh or fish (default: from $SHELL)')
    .option('-u, --unset', 'print what undoes it')
    .action(
      action((context, machine: string, options: { shell?: string; unset?: boolean }) =>
        environment(context, machine, options),
      ),
    );
  program
    .command('ssh <machine> [command...]')
    .description("log in to a machine, or run a command in it; ends with the command's exit code")
    .addHelpText('after', examples('ssh dev', 'ssh dev docker version'))
    .passThroughOptions()
    .action(action((context, machine: string, command: string[]) => ssh(context, machine, command)));
  addNetworkCommands(program, action);
  addPortCommands(program, action);
  addMinikubeCommands(program, action);
  program
    .command('logs <machine>')
    .description("print the end of a machine's console log")
    .addHelpText('after', examples('logs dev', 'logs -f -n 20 dev', 'logs --supervisor dev'))
    .option('-f, --follow', 'go on with what comes')
    .option('-n, --lines <count>', 'how many lines', parseLines, 200)
    .option('--supervisor', "the log of the machine's supervisor instead")
    .action(action((context, machine: string, options: LogOptions) => logs(context, machine, options)));
  program
    .command('doctor')
    .description('check what this host offers')
    .addHelpText('after', examples('doctor'))
    .action(action(() => doctor()));
  program
    .command('driver <call>', { hidden: true })
    .description('one call of the machine driver in JSON, for programs such as minikube')
    .addHelpText('after', `\nCalls: ${callNames.join(', ')}`)
    .action(action((context, call: string) => driverCall(context, call)));
  program
    .command('completion <shell>')
    .description('print a completion script for bash, zsh or fish')
    .addHelpText('after', '\nExamples:\n  source <(tshyve completion bash)\n  tshyve completion fish | source')
    .action(
      action((_context, shell: string) => {
        process.stdout.write(completionScript(shell, program.commands));
        return Promise.resolve();
      }),
    );
  return program;
}

function examples(...commands: string[]): string {
  return `\nExample${commands.length > 1 ? 's' : ''}:\n${commands.map((command) => `  tshyve ${command}`).join('\n')}`;
}

function parseLines(text: string): number {
  if (!/^\d{1,6}$/.test(text)) throw new InvalidArgumentError('Give a whole number.');
  return Number(text);
}

/** `create` has the driver's own flags, also under their short names (`--cpus` for `--tshyve-cpus`). */
function addCreate(program: Command, action: Action): void {
  const flags = new TshyveDriver('', '').createFlags();
  const command = program.command('create <machine>').description('make a machine with Docker');
  for (const flag of flags) {
    const short = flag.name.replace(/^tshyve-/, '');
    const parse = (text: string, before: unknown): FlagValue => {
      try {
        const value = parseFlag(flag, text, `--${short}`);
        return flag.kind === 'strings' ? [...((before as string[] | undefined) ?? []), ...(value as string[])] : value;
      } catch (error) {
        throw new InvalidArgumentError(messageOf(error));
      }
    };
    const value = flag.kind === 'bool' ? '' : ' <value>';
    const option = describe(new Option(`--${short}${value}`, flag.usage), flag);
    const other = new Option(`--${flag.name}${value}`).hideHelp();
    for (const each of [option, other]) command.addOption(flag.kind === 'bool' ? each : each.argParser(parse));
  }
  command.addHelpText(
    'after',
    examples('create dev', 'create big --cpus 4 --memory 8192 --disk-size 100000', 'create data --extra-disk 50000'),
  );
  command.action(
    action((context, machine: string, options: Record<string, FlagValue>) => {
      const values = new Map<string, FlagValue>();
      for (const flag of flags) {
        const value = options[camelCase(flag.name)] ?? options[camelCase(flag.name.replace(/^tshyve-/, ''))];
        if (value !== undefined) values.set(flag.name, value);
      }
      return create(context, machine, values);
    }),
  );
}

function describe(option: Option, flag: CreateFlag): Option {
  option.description = `${flag.usage} [$${flag.envVar}${'value' in flag && flag.value !== '' && String(flag.value) !== '' ? `, default ${String(flag.value)}` : ''}]`;
  return option;
}

function camelCase(name: string): string {
  return name.replace(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

async function remove(context: Context, machines: readonly string[], options: { force?: boolean }): Promise<void> {
  for (const machine of machines) {
    const { store, operation } = context;
    let driver: TshyveDriver;
    try {
      driver = await store.load(machine);
    } catch (error) {
      // A name that is no name must not become a path.
      if (options.force !== true || TshyveError.is(error, 'usage')) throw error;
      driver = new TshyveDriver(machine, store.path);
    }
    await driver.remove(operation);
    await store.forget(machine);
    operation.log.info(`Machine "${machine}" is removed`);
  }
}
