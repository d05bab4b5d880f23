import { spawn } from 'node:child_process';
import { readdirSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';

import type { Benchmark } from './benchmark.js';
import { type Variant, interleave, pick } from './harness.js';
import type { World } from './world.js';

const WARMUP_ROUNDS = 3;
const BUDGET_MS = 60_000;
const TIMEOUT_MS = 10_000;

/** What a Go client sends and gets for its first call, recorded from one (test/fixtures/gob-vectors.json.gz). */
const preamble = Buffer.from('CONNECT /_goRPC_ HTTP/1.0\n\n');
const getVersion = Buffer.from(
  '2fff81030101075265717565737401ff82000102010d536572766963654d6574686f64010c00010353657101060000001fff82011a5250435365727665724472697665722e47657456657273696f6e000aff83030102ff8400000003ff8400',
  'hex',
);
/** The end of the reply: an int, the API version 1. */
const versionReply = Buffer.from('03040002', 'hex');

const minimalSource = `const s = require('node:net').createServer();
s.listen(0, '127.0.0.1', () => console.log('127.0.0.1:' + s.address().port));
`;

export const coldStart: Benchmark = {
  name: 'cold-start',
  about: 'plugin, as script and as single executable: spawn to address line, and to the answer of the first call',
  rounds: 30,
  needs: ['plugin', 'goPlugin'],
  async run({ world, rounds, say }) {
    say('Packing the single executable');
    const executable = await packExecutable(world);
    say(`${String(rounds)} rounds`);
    const minimal = join(world.folder, 'minimal.cjs');
    writeFileSync(minimal, minimalSource);
    const env = { ...world.env, MACHINE_PLUGIN_TOKEN: '42', MACHINE_PLUGIN_DRIVER_NAME: 'tshyve' };
    const plugin = (name: string, program: string, args: string[], call: boolean): Variant => {
      return async () => {
        const { address, answer } = await startPlugin(program, args, env, call);
        return { [`${name} address`]: address, ...(answer === undefined ? {} : { [`${name} answer`]: answer }) };
      };
    };
    const values = await interleave(
      [
        plugin('minimal', process.execPath, [minimal], false),
        plugin('tshyve', process.execPath, [world.parts.plugin.path], true),
        plugin('executable', executable, [], true),
        plugin('go', world.parts.goPlugin.path, [], true),
      ],
      { rounds, warmup: WARMUP_ROUNDS, budgetMs: BUDGET_MS },
    );
    const variants = ['minimal', 'tshyve', 'executable', 'go'] as const;
    const [minimalAddress, ourAddress, executableAddress, goAddress] = pick(
      values,
      variants.map((name) => `${name} address`),
    );
    const [ourAnswer, executableAnswer, goAnswer] = pick(values, ['tshyve answer', 'executable answer', 'go answer']);
    return [
      {
        title: 'Plugin cold start, spawn to address line',
        unit: 'ms',
        baseline: 'minimal Node script that listens and prints',
        series: [
          { name: 'minimal Node script that listens and prints', values: minimalAddress?.values ?? [] },
          { name: 'docker-machine-driver-tshyve', values: ourAddress?.values ?? [] },
          { name: 'the same as single executable', values: executableAddress?.values ?? [] },
          { name: 'Go plugin that does nothing', values: goAddress?.values ?? [] },
        ],
        aims: [{ series: 'docker-machine-driver-tshyve', of: 'ratio', max: 1.1 }],
      },
      {
        title: 'Plugin cold start, spawn to the answer of GetVersion',
        unit: 'ms',
        baseline: 'Go plugin that does nothing',
        series: [
          { name: 'docker-machine-driver-tshyve', values: ourAnswer?.values ?? [] },
          { name: 'the same as single executable', values: executableAnswer?.values ?? [] },
          { name: 'Go plugin that does nothing', values: goAnswer?.values ?? [] },
        ],
      },
    ];
  },
};

/** @returns the path of the plugin in a release that is made of what was built */
async function packExecutable(world: World): Promise<string> {
  const out = join(world.folder, 'release');
  const script = join(world.parts.tshyve.path, '../../scripts/package.mjs');
  await world.run(process.execPath, [script, '--out', out, '--without-image']);
  const [name = ''] = readdirSync(out).filter((entry) => !entry.endsWith('.gz'));
  return join(out, name, 'bin/docker-machine-driver-tshyve');
}

/** Starts a plugin as libmachine does and ends it. @returns milliseconds since the spawn */
async function startPlugin(program: string, args: readonly string[], env: NodeJS.ProcessEnv, call: boolean) {
  const begin = performance.now();
  const child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'ignore'] });
  const closed = new Promise((resolve) => child.once('close', resolve));
  const timer = setTimeout(() => child.kill('SIGKILL'), TIMEOUT_MS);
  try {
    const line = await new Promise<string>((resolve, reject) => {
      let text = '';
      child.once('error', reject);
      child.stdout.on('data', (chunk: Buffer) => {
        text += chunk.toString('latin1');
        if (text.includes('\n')) resolve(text);
      });
      child.once('close', () => {
        reject(new Error(`${[program, ...args].join(' ')} printed no address`));
      });
    });
    const address = performance.now() - begin;
    if (!call) return { address, answer: undefined };
    await callGetVersion(Number(line.trim().split(':')[1]));
    return { address, answer: performance.now() - begin };
  } finally {
    clearTimeout(timer);
    child.kill('SIGKILL');
    await closed;
  }
}

function callGetVersion(port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: '127.0.0.1', port, noDelay: true });
    let received = Buffer.alloc(0);
    let called = false;
    socket.on('connect', () => socket.write(preamble));
    socket.on('data', (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      if (!called && received.includes('\n\n')) {
        called = true;
        socket.write(getVersion);
      } else if (received.subarray(-versionReply.length).equals(versionReply)) {
        socket.destroy();
        resolve();
      }
    });
    socket.on('error', reject);
    socket.on('close', () => {
      reject(new Error('the plugin did not answer GetVersion'));
    });
  });
}
