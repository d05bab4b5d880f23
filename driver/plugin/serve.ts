import { messageOf } from '../base/index.js';
import { LineWriter } from './line-writer.js';
import type { Listener } from './listener.js';
import { PluginServer } from './plugin-server.js';

/** Serves the machine driver to the client that connects, for as long as it wants; ends the process. */
export async function serve(listener: Listener): Promise<void> {
  let stdout: LineWriter | undefined;
  let stderr: LineWriter | undefined;
  const server = new PluginServer(listener, {
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
