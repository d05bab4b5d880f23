import { writeSync } from 'node:fs';

import { Listener } from './listener.js';

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
  const listener = new Listener();
  // Nothing may go to stdout before this line, and nothing that the address does not need may load before it.
  writeSync(1, `${await listener.listen()}\n`);
  await (await import('./serve.js')).serve(listener);
}
