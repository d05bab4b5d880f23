import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, release } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';

import { TshyveError, formatSeconds, messageOf } from '../../driver/base/index.js';
import { address } from './address.js';
import type { Benchmark } from './benchmark.js';
import { boot } from './boot.js';
import { coldStart } from './cold-start.js';
import { create } from './create.js';
import { type Result, evaluate, formatTable } from './harness.js';
import { list } from './list.js';
import { memory } from './memory.js';
import { network } from './network.js';
import { World, parts } from './world.js';

/** In this order: what boots few machines first. `memory` and `boot` share a machine. */
const benchmarks: readonly Benchmark[] = [coldStart, address, create, memory, boot, list, network];

/** The whole run takes less on a quiet machine; a busy one shall not be kept busy for ever. */
const LIMIT_MS = 15 * 60_000;

const usage = `Usage: npm run bench [-- --only NAME[,NAME...]] [--rounds N] [--json FILE]

Measures what tshyve promises, beside baselines of the same run. Takes about ten minutes on a quiet machine,
at most fifteen.
  --only NAME    just these: ${benchmarks.map(({ name }) => name).join(', ')}
  --rounds N     rounds of each benchmark instead of its own number
  --json FILE    where the figures go (default: test/bench/out/results.json)

${benchmarks.map(({ name, about, rounds }) => `  ${name.padEnd(11)} ${about} (${String(rounds)} rounds)`).join('\n')}
`;

interface Options {
  readonly chosen: readonly Benchmark[];
  readonly rounds: number | undefined;
  readonly json: string;
}

/** @returns the exit code: 0 measured, 1 something is missing or failed, 2 wrong usage, 130 interrupted */
export async function main(argv: readonly string[], root: string): Promise<number> {
  let options: Options | undefined;
  try {
    options = parseOptions(argv, root);
  } catch (error) {
    process.stderr.write(`bench: ${messageOf(error)}\n\n${usage}`);
    return 2;
  }
  if (options === undefined) {
    process.stdout.write(usage);
    return 0;
  }
  const absent = missingParts(options.chosen, root);
  if (absent.length > 0) {
    process.stderr.write(`bench: something to measure is missing:\n${absent.map((line) => `  ${line}\n`).join('')}`);
    return 1;
  }
  const abort = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      abort.abort();
    });
  }
  const limit = setTimeout(() => {
    abort.abort(new TshyveError('timeout', `gave up: the run took longer than ${formatSeconds(LIMIT_MS)}`));
  }, LIMIT_MS);
  const before = loadavg()[0] ?? 0;
  const results: Record<string, Result[]> = {};
  const failures: string[] = [];
  const world = new World(root, abort.signal);
  const started = performance.now();
  try {
    for (const benchmark of options.chosen) {
      const say = (line: string) => process.stderr.write(`${benchmark.name}: ${line}\n`);
      try {
        const rounds = options.rounds ?? benchmark.rounds;
        const comparisons = await benchmark.run({ root, world, rounds, signal: abort.signal, say });
        results[benchmark.name] = comparisons.map(evaluate);
        for (const result of results[benchmark.name] ?? []) process.stdout.write(`${formatTable(result)}\n\n`);
      } catch (error) {
        const why = messageOf(abort.signal.aborted ? abort.signal.reason : error);
        failures.push(`${benchmark.name}: ${why}`);
        process.stderr.write(`bench: ${benchmark.name} failed: ${why}\n`);
        if (abort.signal.aborted) break;
      }
    }
  } finally {
    clearTimeout(limit);
    await world.close();
  }
  if (abort.signal.aborted && !TshyveError.is(abort.signal.reason)) return 130;
  const report = {
    date: new Date().toISOString(),
    node: process.version,
    host: { kernel: release(), cpus: cpus().length, model: cpus()[0]?.model ?? '', loadBefore: before },
    seconds: Math.round((performance.now() - started) / 1000),
    results,
    failures,
  };
  mkdirSync(dirname(options.json), { recursive: true });
  writeFileSync(options.json, `${JSON.stringify(report, null, 2)}\n`);
  process.stdout.write(
    `${String(report.seconds)} s; load average before: ${before.toFixed(2)} on ${String(report.host.cpus)} CPUs; figures in ${options.json}\n`,
  );
  return failures.length > 0 ? 1 : 0;
}

/** @returns undefined when help is asked for. @throws Error that says what is wrong */
function parseOptions(argv: readonly string[], root: string): Options | undefined {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      only: { type: 'string', multiple: true },
      rounds: { type: 'string' },
      json: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help === true) return undefined;
  if (values.rounds !== undefined && !/^[1-9]\d{0,3}$/.test(values.rounds)) {
    throw new Error(`--rounds takes a number from 1 to 9999, got "${values.rounds}"`);
  }
  const names = values.only?.flatMap((text) => text.split(',')) ?? benchmarks.map(({ name }) => name);
  const unknown = names.filter((name) => !benchmarks.some((benchmark) => benchmark.name === name));
  if (unknown.length > 0) throw new Error(`there is no benchmark "${unknown.join('", "')}"`);
  return {
    chosen: benchmarks.filter(({ name }) => names.includes(name)),
    rounds: values.rounds === undefined ? undefined : Number(values.rounds),
    json: values.json ?? join(root, 'test/bench/out/results.json'),
  };
}

function missingParts(chosen: readonly Benchmark[], root: string): string[] {
  const known = parts(root);
  const needed = [...new Set(chosen.flatMap(({ needs }) => needs))].map((name) => known[name]);
  return needed.filter(({ path }) => !existsSync(path)).map(({ path, made }) => `${path}: run ${made}`);
}
