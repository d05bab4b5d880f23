import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

import { TshyveError } from '../../driver/base/index.js';
import type { Bench, Benchmark } from './benchmark.js';
import { interleave, pick } from './harness.js';

const TIMEOUT_MS = 300_000;
const BUDGET_MS = 90_000;
const MEMORY_MIB = 2048;

const phases = {
  total: 'total',
  boot: 'guest: boot, launch to sshd',
  docker: 'guest: start of Docker',
  client: 'client: certificates, provisioning over SSH',
  ours: 'ours: all the rest',
  plugins: '  two plugin starts',
  check: '  pre-create check',
  launch: '  create, until the guest runs',
  contact: '  create, sshd up to logged in and done',
  calls: '  all other calls',
} as const;

export const create: Benchmark = {
  name: 'create',
  about: 'docker-machine create, until Docker answers, split into guest, client and ours',
  rounds: 3,
  needs: ['plugin', 'client', 'image'],
  async run(bench) {
    // The hypervisor's probe is made once per boot of the host; the first round must not differ.
    await bench.world.tshyve('doctor');
    const values = await interleave([() => createOnce(bench)], {
      rounds: bench.rounds,
      warmup: 0,
      budgetMs: BUDGET_MS,
      onRound: (round) => {
        bench.say(`round ${String(round)} of ${String(bench.rounds)}`);
      },
    });
    return [
      {
        title: 'docker-machine create until Docker answers',
        unit: 's',
        series: pick(values, Object.values(phases)),
        aims: [{ series: phases.ours, of: 'median', max: 1 }],
      },
    ];
  },
};

async function createOnce({ world, signal }: Bench): Promise<Record<string, number>> {
  const args = ['-D', '-s', world.store, 'create', '-d', 'tshyve', '--tshyve-memory', String(MEMORY_MIB), 'created'];
  const lines = await timedLines(world.parts.client.path, args, world.env, signal);
  const measured = analyse(lines);
  await world.run(world.parts.client.path, ['-s', world.store, 'rm', '-f', '-y', 'created']);
  return measured;
}

interface TimedLine {
  /** Milliseconds since the start of the program. */
  readonly at: number;
  readonly text: string;
}

/** Runs a program that must succeed. @returns the lines of stdout and stderr with the time they came */
function timedLines(
  program: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
  signal: AbortSignal,
): Promise<TimedLine[]> {
  return new Promise((resolve, reject) => {
    const begin = performance.now();
    const lines: TimedLine[] = [];
    const child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'], signal, timeout: TIMEOUT_MS });
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on('line', (text) => {
        lines.push({ at: performance.now() - begin, text });
      });
    }
    child.once('error', reject);
    child.once('close', (code) => {
      if (code === 0) resolve(lines);
      else {
        const said = lines.slice(-5).map(({ text }) => text);
        reject(new TshyveError('internal', `${program} ended with exit code ${String(code)}:\n${said.join('\n')}`));
      }
    });
  });
}

/**
 * Splits a create by what client (-D) and plugin say: the client when it starts plugins and SSH commands, the plugin
 * how long each call took and at what time of the launch the guest reached which milestone.
 */
function analyse(lines: readonly TimedLine[]): Record<string, number> {
  const first = (pattern: RegExp, after = 0): TimedLine => {
    const found = lines.find(({ at, text }) => at >= after && pattern.test(text));
    if (found === undefined) throw new Error(`the client's debug output has no line like ${String(pattern)}`);
    return found;
  };
  const event = (name: string) => Number(/after (\d+) ms/.exec(first(new RegExp(`\\| event ${name} `)).text)?.[1]);
  const total = first(/Docker is up and running!/).at;
  const starts = lines.filter(({ text }) => text.startsWith('Launching plugin server'));
  const plugins = starts.reduce((sum, { at }) => sum + first(/^Plugin server listening at/, at).at - at, 0);
  const calls = lines.flatMap(({ text }) => {
    const [, method, ms] = /\| RPCServerDriver\.(\w+) took (\d+) ms$/.exec(text) ?? [];
    return method === undefined ? [] : [{ method, ms: Number(ms) }];
  });
  const took = (wanted: (method: string) => boolean) =>
    calls.filter(({ method }) => wanted(method)).reduce((sum, { ms }) => sum + ms, 0);
  const boot = event('ssh') - event('launched');
  const create = took((method) => method === 'Create');
  const check = took((method) => method === 'PreCreateCheck');
  const others = took((method) => method !== 'Create' && method !== 'PreCreateCheck');
  // Relayed lines come late when the machine is busy; the guest's own times tell how much of Create followed sshd.
  const called = first(/Calling \.Create$/).at;
  const launch = Math.min(create - boot, Math.max(0, first(/\| event launched /).at - called));
  const startDocker = first(/^sudo \/etc\/init\.d\/docker start$/);
  const docker = first(/^SSH cmd err, output/, startDocker.at).at - startDocker.at;
  const ours = plugins + check + create - boot + others;
  const figures: Record<keyof typeof phases, number> = {
    total,
    boot,
    docker,
    client: total - boot - docker - ours,
    ours,
    plugins,
    check,
    launch,
    contact: create - boot - launch,
    calls: others,
  };
  return Object.fromEntries(
    Object.entries(figures).map(([key, ms]) => [phases[key as keyof typeof phases], ms / 1000]),
  );
}
