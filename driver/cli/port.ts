import type { Command } from 'commander';

import { TshyveError } from '../base/index.js';
import { type HostPort, type Protocol, protocols } from '../hypervisor/index.js';
import type { AddedPort } from '../machine/index.js';
import type { Action, Context } from './context.js';
import { table } from './list.js';

/** `tshyve port …`: ports of a machine's loopback address that lead into it. */
export function addPortCommands(program: Command, action: Action): void {
  const port = program
    .command('port')
    .description('ports of the host that lead to a machine on a user-mode network')
    .addHelpText(
      'after',
      '\nExamples:\n  tshyve port ls dev\n  tshyve port add dev 8080:80 5353:53/udp\n  tshyve port rm dev 8080',
    );
  port
    .command('ls <machine>')
    .description('list them: those of its services, those that were added, those that containers publish')
    .addHelpText('after', '\nExample:\n  tshyve port ls --json dev')
    .option('--json', 'as JSON')
    .action(action((context, machine: string, options: { json?: boolean }) => list(context, machine, options)));
  port
    .command('add <machine> <port...>')
    .description('lead [HOST:]GUEST[/udp] to the machine, now and after each start')
    .addHelpText('after', '\nExample:\n  tshyve port add dev 8080:80')
    .action(
      action(async (context, machine: string, ports: string[]) => {
        const wanted = ports.map(parseMapping);
        const driver = await context.store.load(machine);
        for (const each of wanted) await driver.addPort(context.operation, each);
      }),
    );
  port
    .command('rm <machine> <port...>')
    .description('end what "add" began: HOST[/udp]')
    .addHelpText('after', '\nExample:\n  tshyve port rm dev 8080')
    .action(
      action(async (context, machine: string, ports: string[]) => {
        const unwanted = ports.map(parseHostPort);
        const driver = await context.store.load(machine);
        for (const each of unwanted) await driver.removePort(context.operation, each);
      }),
    );
}

async function list({ store }: Context, machine: string, options: { json?: boolean }): Promise<void> {
  const ports = await (await store.load(machine)).ports();
  if (options.json === true) process.stdout.write(`${JSON.stringify(ports, null, 2)}\n`);
  else {
    const rows = ports.map(({ hostAddress, hostPort, guestPort, protocol, name }) => {
      return [`${hostAddress}:${String(hostPort)}`, String(guestPort), protocol, name];
    });
    process.stdout.write(table([['HOST', 'GUEST', 'PROTOCOL', 'FOR'], ...rows]));
  }
}

/** `8080:80`, `80`, `5353:53/udp`. @throws TshyveError `usage` */
export function parseMapping(text: string): AddedPort {
  const [, first = '', second, protocol] = /^(\d{1,5})(?::(\d{1,5}))?(?:\/(\w+))?$/.exec(text) ?? [];
  const hostPort = Number(first);
  const guestPort = Number(second ?? first);
  const known = parseProtocol(protocol);
  if (!isPort(hostPort) || !isPort(guestPort) || known === undefined) {
    throw new TshyveError('usage', `"${text}" is no port: give [HOST:]GUEST or [HOST:]GUEST/udp, e.g. 8080:80.`);
  }
  return { protocol: known, hostPort, guestPort };
}

/** `8080`, `5353/udp`. @throws TshyveError `usage` */
export function parseHostPort(text: string): HostPort {
  const [, number = '', protocol] = /^(\d{1,5})(?:\/(\w+))?$/.exec(text) ?? [];
  const known = parseProtocol(protocol);
  if (!isPort(Number(number)) || known === undefined) {
    throw new TshyveError('usage', `"${text}" is no port of the host: give e.g. 8080 or 5353/udp.`);
  }
  return { protocol: known, hostPort: Number(number) };
}

function parseProtocol(text: string | undefined): Protocol | undefined {
  return protocols.find((protocol) => protocol === (text ?? 'tcp'));
}

function isPort(port: number): boolean {
  return port >= 1 && port <= 65_535;
}
