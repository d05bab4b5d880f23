import { type ChildProcess, spawn } from 'node:child_process';
import { chownSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { TshyveError, messageOf, run, sleep, within } from '../../driver/base/index.js';
import { type GuestSession, contactGuest } from '../../driver/guest/index.js';
import { type VmSpec, selectHypervisor } from '../../driver/hypervisor/index.js';
import { qemuArguments } from '../../driver/hypervisor/qemu/arguments.js';
import { TshyveDriver } from '../../driver/machine/index.js';
import type { Bench, Benchmark } from './benchmark.js';
import { type Comparison, type Result, type Series, type Variant, interleave, pick } from './harness.js';
import { Namespace } from './namespace.js';

/** Set in the process that measures, which runs in a network namespace of its own. */
const INSIDE = 'TSHYVE_BENCH_INSIDE';
const LIMIT_MS = 12 * 60_000;
const BUDGET_MS = 180_000;
const BOOT_TIMEOUT_MS = 240_000;
const SECONDS = 2;
const [SINK, SOURCE] = [5201, 5202];
/** passt becomes this user when root starts it. */
const NOBODY = 65_534;

const SLIRP = "user: QEMU's own slirp";
const SWITCH = 'user:NAME: switch';
const SHARED = 'shared: bridge and tap';
const RELAY = 'socket: passt';
const DIRECT = 'QEMU and passt without tshyve';

/** The host's end of a measurement, as a process of its own. Prints bytes and milliseconds of each connection. */
const peer = `
const { createServer } = require('net');
const tell = (bytes, ms) => console.log(JSON.stringify({ bytes, ms }));
createServer((socket) => {
  let bytes = 0, first = 0, last = 0;
  socket.on('data', (chunk) => { last = performance.now(); first ||= last; bytes += chunk.length; });
  socket.on('error', () => 0).on('close', () => tell(bytes, last - first));
}).listen(${String(SINK)}, '0.0.0.0');
createServer((socket) => {
  const block = Buffer.alloc(1 << 18), begun = performance.now();
  const more = () => { while (!socket.destroyed && socket.write(block)); };
  socket.on('drain', more).on('error', () => 0);
  socket.on('close', () => tell(socket.bytesWritten - socket.writableLength, performance.now() - begun));
  more();
}).listen(${String(SOURCE)}, '0.0.0.0', () => console.log('ready'));`;

export const network: Benchmark = {
  name: 'network',
  about: "TCP between guest and host in each network mode, beside QEMU's own slirp and passt",
  rounds: 3,
  needs: ['tshyve', 'image'],
  run: (bench) => (process.env[INSIDE] === undefined ? runInside(bench) : measure(bench)),
};

/** Runs this benchmark once more, in a namespace. */
async function runInside({ root, world, rounds, signal }: Bench): Promise<Comparison[]> {
  if (!existsSync('/usr/bin/passt')) throw new TshyveError('precondition', 'passt is missing: apt-get install passt');
  const namespace = new Namespace(world);
  const json = join(world.folder, 'network.json');
  try {
    await namespace.open();
    // passt gives the guest the address of the host, and needs one with a default route for that.
    await namespace.run('ip', 'link', 'add', 'up0', 'type', 'veth', 'peer', 'name', 'up1');
    await namespace.run('ip', 'address', 'add', '192.0.2.2/24', 'dev', 'up0');
    for (const link of ['up0', 'up1']) await namespace.run('ip', 'link', 'set', link, 'up');
    await namespace.run('ip', 'route', 'add', 'default', 'via', '192.0.2.1');
    const again = [join(root, 'test/bench/run.mjs'), '--only', 'network', '--rounds', String(rounds), '--json', json];
    const child = spawn('ip', ['netns', 'exec', namespace.name, process.execPath, ...again], {
      env: { ...namespace.env, [INSIDE]: '1' },
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    const stop = () => child.kill('SIGINT');
    signal.addEventListener('abort', stop);
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
    const code = await within(ended, LIMIT_MS, 'the measurement').finally(stop);
    if (code !== 0) throw new TshyveError('internal', `The measurement ended with exit code ${String(code)}.`);
    const { results } = JSON.parse(await readFile(json, 'utf8')) as { results: { network: Result[] } };
    return results.network.map(({ title, baseline, rows }) => ({
      title,
      unit: 'Mbit/s',
      ...(baseline === null ? {} : { baseline }),
      series: rows.map(({ name, values }) => ({ name, values })),
    }));
  } finally {
    await namespace.close();
  }
}

async function measure(bench: Bench): Promise<Comparison[]> {
  const { root, world, rounds, say } = bench;
  const sockets = mkdtempSync(join(tmpdir(), 'tsb-'));
  chownSync(sockets, NOBODY, NOBODY);
  const children: ChildProcess[] = [];
  const sessions: GuestSession[] = [];
  const drivers: TshyveDriver[] = [];
  world.env['TSHYVE_NETWORKS'] = join(world.folder, 'networks');
  Object.assign(process.env, world.env, { TSHYVE_VMM: join(root, 'dist/tshyve-vmm.cjs') });
  const command = (...args: string[]) => world.run(process.execPath, [world.parts.tshyve.path, ...args]);
  try {
    await command('network', 'up', 'bench');
    const passt = async (name: string, port: number): Promise<string> => {
      const path = join(sockets, name);
      children.push(
        spawn('passt', ['-f', '-q', '-s', path, '-t', `127.0.0.1/${String(port)}:22`], { stdio: 'ignore' }),
      );
      while (!existsSync(path)) await sleep(20, bench.signal);
      return path;
    };
    const [relayed, direct] = [await passt('relayed', 2301), await passt('direct', 2302)];
    const host = new Peer();
    children.push(host.child);
    await within(host.ready, 10_000, 'the peer', bench.signal);
    const machine = async (name: string, choice: string) => {
      say(`booting a machine on ${choice}`);
      const driver = new TshyveDriver(name, world.store);
      drivers.push(driver);
      driver.setConfigFromFlags(
        new Map<string, string | number>([
          ['tshyve-network', choice],
          ['tshyve-memory', 512],
          ['tshyve-cpus', 1],
          ['tshyve-hypervisor', 'qemu'],
          ['tshyve-image-url', `file://${world.parts.image.path}`],
        ]),
      );
      await driver.create(operation(bench));
      return driver;
    };
    const open = async (name: string, choice: string) => {
      const session = await (await machine(name, choice)).openSession(operation(bench));
      sessions.push(session);
      return session;
    };
    const guests = new Map<string, GuestSession>([
      [SLIRP, await open('slirp', 'user')],
      [SWITCH, await open('switch', 'user:bench')],
      [SHARED, await open('shared', 'shared:bench')],
      [RELAY, await open('passt', `socket:passt:${relayed},ssh=127.0.0.1:2301`)],
    ]);
    // Its disk is formatted by a first boot; the second one is QEMU's alone.
    await (await machine('direct', `socket:passt:${direct},ssh=127.0.0.1:2302`)).stop(operation(bench));
    const { child, session } = await withoutUs(bench, join(world.store, 'machines/direct'), direct, 2302);
    children.push(child);
    sessions.push(session);
    guests.set(DIRECT, session);
    const variants = [...guests].map(
      ([name, guest]): Variant =>
        () =>
          once(name, guest, host),
    );
    const values = await interleave(variants, {
      rounds,
      warmup: 1,
      budgetMs: BUDGET_MS,
      onRound: (round) => {
        say(`round ${String(round)} of ${String(rounds)}`);
      },
    });
    const comparison = (title: string, direction: string, baseline: string, names: string[]): Comparison => ({
      title: `TCP, one connection, ${title}`,
      unit: 'Mbit/s',
      baseline,
      series: names.map((name): Series => ({ name, values: pick(values, [`${name} ${direction}`])[0]?.values ?? [] })),
    });
    const all = [SLIRP, SWITCH, SHARED, RELAY, DIRECT];
    return [
      comparison('guest to host', 'out', SLIRP, all),
      comparison('host to guest', 'in', SLIRP, all),
      comparison('guest to host by passt', 'out', DIRECT, [RELAY, DIRECT]),
      comparison('host to guest by passt', 'in', DIRECT, [RELAY, DIRECT]),
    ];
  } finally {
    for (const session of sessions) session.close();
    // Also after an interruption, whose signal has fired.
    const calm = { ...operation(bench), signal: new AbortController().signal };
    for (const driver of drivers) await driver.remove(calm).catch((error: unknown) => say(messageOf(error)));
    for (const child of children) child.kill('SIGKILL');
    await run(process.execPath, [world.parts.tshyve.path, 'network', 'down', '--force', 'bench'], { env: world.env });
    rmSync(sockets, { recursive: true, force: true });
  }
}

function operation({ signal }: Bench) {
  return { log: { info: () => undefined, debug: () => undefined }, signal };
}

/** Both directions, one after the other. */
async function once(name: string, guest: GuestSession, host: Peer): Promise<Record<string, number>> {
  const talk = async (redirection: string) => {
    const result = host.next();
    // In every mode the default gateway is the host. timeout(1) ends it, which is no success.
    const line = `read -r _ _ gateway _ < <(ip route show default); timeout ${String(SECONDS)} bash -c "${redirection}"; true`;
    await guest.check(`bash -c '${line}'`, { timeoutMs: 60_000 });
    return within(result, 10_000, 'the end of a measurement');
  };
  const out = await talk(`cat /dev/zero > /dev/tcp/$gateway/${String(SINK)}`);
  const into = await talk(`cat < /dev/tcp/$gateway/${String(SOURCE)} > /dev/null`);
  return { [`${name} out`]: out, [`${name} in`]: into };
}

/** Boots the machine with the driver's own arguments, but with QEMU connected to passt itself. */
async function withoutUs({ world, signal }: Bench, folder: string, passt: string, port: number) {
  const record = JSON.parse(readFileSync(join(folder, 'tshyve.json'), 'utf8')) as {
    uuid: string;
    mac: string;
    boot: { commandLine: string; needsIsoDisk: boolean };
  };
  const iso = { id: 'image', path: join(folder, 'boot2docker.iso'), readOnly: true };
  const spec: VmSpec = {
    name: 'direct',
    uuid: record.uuid,
    cpus: 1,
    memoryMiB: 512,
    boot: {
      kernel: join(folder, 'kernel'),
      initrd: join(folder, 'initrd'),
      commandLine: `${record.boot.commandLine} tshyve.hostname=direct`,
    },
    disks: [
      { id: 'data', path: join(folder, 'disk.img'), readOnly: false },
      ...(record.boot.needsIsoDisk ? [iso] : []),
    ],
    network: { mode: 'socket', framing: 'stream', path: passt, mac: record.mac, hostname: 'direct', services: [] },
  };
  // Namespaces, and so this benchmark, are Linux'.
  const { accelerator } = await (await selectHypervisor('qemu')).probe();
  const runDirectory = join(world.folder, 'direct');
  mkdirSync(runDirectory, { mode: 0o700 });
  const sockets = { qmp: join(runDirectory, 'qmp'), frames: passt };
  const args = qemuArguments(spec, accelerator === 'kvm' ? 'kvm' : 'tcg', sockets, { architecture: 'x86_64' });
  const child = spawn(
    'qemu-system-x86_64',
    args.filter((word) => word !== '-S'),
    { stdio: ['pipe', 'ignore', 'inherit'] },
  );
  const privateKey = readFileSync(join(folder, 'id_ed25519'), 'utf8');
  try {
    const session = await contactGuest(
      { host: '127.0.0.1', port, username: 'docker', privateKey, hostKey: undefined },
      { timeoutMs: BOOT_TIMEOUT_MS, signal },
    );
    return { child, session };
  } catch (error) {
    child.kill('SIGKILL');
    throw error;
  }
}

/** The other end of all measurements. */
class Peer {
  readonly child = spawn(process.execPath, ['-e', peer], { stdio: ['ignore', 'pipe', 'inherit'] });
  readonly ready: Promise<void>;
  #ready: () => void = () => undefined;
  #result: (megabits: number) => void = () => undefined;

  constructor() {
    this.ready = new Promise((resolve) => {
      this.#ready = resolve;
    });
    let rest = '';
    this.child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        if (line === 'ready') this.#ready();
        else {
          const { bytes, ms } = JSON.parse(line) as { bytes: number; ms: number };
          this.#result((bytes * 8) / 1e6 / (ms / 1e3));
        }
      }
    });
  }

  /** Mbit/s of the next connection that ends. */
  next(): Promise<number> {
    return new Promise((resolve) => {
      this.#result = resolve;
    });
  }
}
