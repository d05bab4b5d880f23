import { writeSync } from 'node:fs';

import { messageOf } from '../base/index.js';
import { LineWriter } from './line-writer.js';
import { PluginServer } from './plugin-server.js';

/** libmachine's magic: a plugin started by a client finds this in its environment. */
const TOKEN = '42';

/**
 * The process behind `docker-machine-driver-tshyve`. Sets the exit code and ends the process itself.
 * @param argv arguments without node and script
 */
export async function main(argv: readonly string[]): Promise<void> {
  const env = process.env;
  // With the token set, the arguments are the client's own (rancher-machine passes them on) and mean nothing here.
  if (env['MACHINE_PLUGIN_TOKEN'] !== TOKEN) {
    if (argv[0] === '--grpc') {
      const [{ serveGrpc }, { createDriver }] = await Promise.all([
        import('./grpc/main.js'),
        import('../machine/index.js'),
      ]);
      await serveGrpc(argv[1], createDriver);
    } else (await import('./by-hand.js')).answerByHand(argv[0]);
    return;
  }
  // Children must not take themselves for a plugin.
  delete env['MACHINE_PLUGIN_TOKEN'];
  delete env['MACHINE_PLUGIN_DRIVER_NAME'];
  await servePlugin();
}

async function servePlugin(): Promise<void> {
  let stdout: LineWriter | undefined;
  let stderr: LineWriter | undefined;
  const server = new PluginServer({
    loadDriver: async () => {
      const { createDriver } = await import('../machine/index.js');
      return createDriver('', '');
    },
    info: (line) => {
      stdout ??= new LineWriter(1);
      stdout.write(line);
    },
    debug: (line) => {
      stderr ??= new LineWriter(2);
      stderr.write(line);
    },
  });
  // Nothing may go to stdout before this line, and nothing heavy may load before it.
  writeSync(1, `${await server.listen()}\n`);
  process.on('unhandledRejection', (reason) => {
    stderr ??= new LineWriter(2);
    stderr.write(`Unhandled: ${messageOf(reason)}`);
  });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      server.shutDown(130, signal);
    });
  }
  server.warmUp();
  process.exit(await server.ended);
}
