// Runs one machine on one of tshyve's hypervisors, in this process and without a supervisor, so that a test can kill it
// and a benchmark can weigh it. Usage: runner.cjs HYPERVISOR SPEC.json
// The guest's console goes to stdout, what happens to the machine goes to stderr, commands come as lines on stdin.
import { mkdirSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import * as v from 'valibot';

import { selectHypervisor, vmSpecSchema } from '../../../driver/hypervisor/index.js';

const tell = (line: string) => process.stderr.write(`runner: ${line}\n`);

async function main(name: string, specPath: string): Promise<number> {
  const spec = v.parse(vmSpecSchema, JSON.parse(readFileSync(specPath, 'utf8')));
  const hypervisor = await selectHypervisor(name);
  const runDirectory = join(specPath, '..', 'run');
  mkdirSync(runDirectory, { recursive: true, mode: 0o700 });
  const machine = await hypervisor.launch(spec, {
    runDirectory,
    log: { info: tell, debug: tell },
    onConsole: (bytes) => process.stdout.write(bytes),
  });
  tell(`process ${String(machine.pid ?? process.pid)}`);
  const commands: Record<string, () => Promise<void>> = {
    'power-button': () => machine.pressPowerButton(),
    pause: () => machine.pause(),
    resume: () => machine.resume(),
    kill: () => machine.kill(),
  };
  const lines = createInterface(process.stdin);
  lines.on('line', (line) => {
    const command = commands[line];
    if (command === undefined) tell(`unknown command ${line}`);
    else
      command().then(
        () => tell(`did ${line}`),
        (error: unknown) => tell(`cannot ${line}: ${String(error)}`),
      );
  });
  const exit = await machine.exited;
  lines.close();
  tell(`${exit.reason}: ${exit.detail}`);
  return exit.reason === 'crashed' ? 1 : 0;
}

const [name, specPath] = process.argv.slice(2);
if (name === undefined || specPath === undefined) {
  tell('usage: runner.cjs HYPERVISOR SPEC.json');
  process.exit(2);
}
main(name, specPath).then(
  (code) => process.exit(code),
  (error: unknown) => {
    tell(error instanceof Error ? error.message : String(error));
    process.exit(1);
  },
);
