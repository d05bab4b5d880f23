import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import type { Bench, Benchmark } from './benchmark.js';
import { type Variant, interleave } from './harness.js';

const MACHINES = 10;
const MEMORY_MIB = 512;
const BUDGET_MS = 60_000;

interface HostConfig {
  readonly DriverName: string;
  readonly Driver: { readonly MachineName: string; readonly IPAddress: string };
}

export const list: Benchmark = {
  name: 'list',
  about: `docker-machine ls with ${String(MACHINES)} running machines`,
  rounds: 5,
  needs: ['tshyve', 'plugin', 'client', 'goPlugin', 'image'],
  async run(bench) {
    const { world, rounds, say } = bench;
    // Machines of other benchmarks would be listed too.
    await world.removeMachines();
    const names = Array.from({ length: MACHINES }, (_, index) => `m${String(index)}`);
    for (const name of names) {
      // One after the other: emulated guests that boot at once only slow each other down.
      say(`creating machine ${name}`);
      await world.create(name, MEMORY_MIB);
    }
    const asking = join(world.folder, 'store-go');
    const silent = join(world.folder, 'store-go-silent');
    for (const name of names) await addIdleTwin(bench, name, asking, silent);
    say(`${String(rounds)} rounds`);
    const ours = 'tshyve plugin';
    const goAsking = 'Go plugin that knows the same urls';
    const goSilent = 'Go plugin without urls: nobody asks Docker';
    const values = await interleave(
      [listOnce(bench, ours, world.store), listOnce(bench, goAsking, asking), listOnce(bench, goSilent, silent)],
      { rounds, warmup: 1, budgetMs: BUDGET_MS },
    );
    await world.removeMachines();
    return [
      {
        title: `docker-machine ls with ${String(MACHINES)} running machines`,
        unit: 's',
        baseline: goAsking,
        series: [ours, goAsking, goSilent].map((name) => ({ name, values: values.get(name) ?? [] })),
      },
    ];
  },
};

/** Puts a host of the Go plugin beside a machine: the same url and certificates, another driver. */
async function addIdleTwin({ world }: Bench, name: string, asking: string, silent: string): Promise<void> {
  const text = readFileSync(join(world.machineFolder(name), 'config.json'), 'utf8');
  const config = JSON.parse(text) as HostConfig;
  const url = (await world.tshyve('url', name)).stdout.trim();
  for (const [store, URL] of [
    [asking, url],
    [silent, ''],
  ] as const) {
    const twin = { ...config, DriverName: 'idle', Driver: { ...config.Driver, StorePath: store, URL } };
    const folder = join(store, 'machines', name);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    writeFileSync(join(folder, 'config.json'), JSON.stringify(twin), { mode: 0o600 });
  }
}

function listOnce({ world }: Bench, series: string, store: string): Variant {
  return async () => {
    const begin = performance.now();
    const { stdout } = await world.run(world.parts.client.path, ['-s', store, 'ls']);
    const seconds = (performance.now() - begin) / 1000;
    const running = stdout.split('\n').filter((line) => line.includes(' Running ')).length;
    if (running !== MACHINES) throw new Error(`ls shows ${String(running)} running machines:\n${stdout}`);
    return { [series]: seconds };
  };
}
