import { setMaxListeners } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';

import { sleep, within } from '../../driver/base/index.js';
import { contactGuest } from '../../driver/guest/index.js';
import { type DiskSpec, type VmSpec, selectHypervisor } from '../../driver/hypervisor/index.js';
import type { Bench, Benchmark } from './benchmark.js';
import { type Comparison, type Variant, interleave, pick } from './harness.js';

const MEMORY_MIB = 2048;
/** USER_HZ, fixed in Linux' ABI. */
const TICKS_PER_SECOND = 100;
const BOOT_TIMEOUT_MS = 300_000;
const BUDGET_MS = 180_000;
/**
 * A connection that comes before the guest's network is lost, so a new one is tried this often. None is given up early:
 * a new sshd process needs a second and more on a busy machine, and it keeps the guest from its boot.
 */
const KNOCK_INTERVAL_MS = 500;
const KNOCK_TIMEOUT_MS = 20_000;
/** Docker listens through systemd before it can answer: one request waits for it. */
const askDocker =
  'until curl -sf -o /dev/null --unix-socket /run/docker.sock http://localhost/_ping; do sleep 0.1; done';

/** A guest that can be booted again and again from the same state. */
interface Guest {
  readonly name: string;
  readonly boot: VmSpec['boot'];
  /** Raw disk that is copied for each boot. */
  readonly disk: string;
  readonly otherDisks: readonly DiskSpec[];
  /** Private key of the user "docker". */
  readonly privateKey: string;
}

export const boot: Benchmark = {
  name: 'boot',
  about: 'guest boot to SSH banner and to Docker, beside an untuned Debian root with the same kernel',
  rounds: 3,
  needs: ['tshyve', 'image'],
  async run(bench) {
    const { world, rounds, say } = bench;
    await world.run(join(bench.root, 'test/bench/untuned-root.sh'), []);
    say('creating the machine to boot');
    const tuned = await tunedGuest(bench, await world.sharedMachine());
    const untuned = untunedGuest(bench);
    const values = await interleave([bootOnce(bench, tuned), bootOnce(bench, untuned)], {
      rounds,
      warmup: 0,
      budgetMs: BUDGET_MS,
      onRound: (round) => {
        say(`round ${String(round)} of ${String(rounds)}`);
      },
    });
    const comparison = (title: string, what: string, max?: number): Comparison => ({
      title,
      unit: 's',
      baseline: untuned.name,
      series: [tuned, untuned].map(({ name }) => ({
        name,
        values: pick(values, [`${name} ${what}`])[0]?.values ?? [],
      })),
      aims: max === undefined ? [] : [{ series: tuned.name, of: 'ratio', max }],
    });
    return [
      comparison('Boot to the SSH banner', 'ssh', 0.5),
      comparison('Boot to Docker answering over SSH', 'docker', 0.7),
      comparison('CPU time of the hypervisor to the SSH banner', 'ssh cpu'),
      comparison('CPU time of the hypervisor to Docker answering', 'docker cpu'),
    ];
  },
};

/** The image as a machine boots it for the second time: disk formatted, Docker wanted at boot. */
async function tunedGuest({ world }: Bench, name: string): Promise<Guest> {
  await world.tshyve('stop', name);
  const folder = world.machineFolder(name);
  const record = JSON.parse(readFileSync(join(folder, 'tshyve.json'), 'utf8')) as { boot: { commandLine: string } };
  return {
    name: `tshyve image ${world.imageManifest().version}`,
    boot: {
      kernel: join(folder, 'kernel'),
      initrd: join(folder, 'initrd'),
      commandLine: `${record.boot.commandLine} tshyve.hostname=tuned`,
    },
    disk: join(folder, 'disk.img'),
    otherDisks: [{ id: 'image', path: join(folder, 'boot2docker.iso'), readOnly: true }],
    privateKey: readFileSync(join(folder, 'id_ed25519'), 'utf8'),
  };
}

function untunedGuest({ root, world }: Bench): Guest {
  const folder = join(root, 'test/bench/out/untuned');
  if (!existsSync(join(folder, 'disk.img'))) throw new Error(`${folder} is incomplete: remove it and try again`);
  return {
    name: `Debian root as installed, kernel ${world.imageManifest().kernel}`,
    boot: {
      kernel: join(folder, 'kernel'),
      initrd: join(folder, 'initrd'),
      commandLine: 'root=/dev/vda rw console=ttyS0 quiet',
    },
    disk: join(folder, 'disk.img'),
    otherDisks: [],
    privateKey: readFileSync(join(folder, 'id_ed25519'), 'utf8'),
  };
}

function bootOnce({ world, signal }: Bench, guest: Guest): Variant {
  return async () => {
    const runDirectory = join(world.folder, 'vm');
    await mkdir(runDirectory, { recursive: true, mode: 0o700 });
    const disk = join(runDirectory, 'disk.img');
    await world.run('cp', ['--sparse=always', '--reflink=auto', guest.disk, disk]);
    const hypervisor = await selectHypervisor('auto');
    const vm = await hypervisor.launch(spec(guest, disk), {
      runDirectory,
      log: { info: () => undefined, debug: () => undefined },
      onConsole: () => undefined,
      signal,
    });
    try {
      const begin = performance.now();
      const forward = vm.forwards.find(({ name }) => name === 'ssh');
      if (forward === undefined) throw new Error('the SSH port is not forwarded');
      await sshBanner(forward.hostAddress, forward.hostPort, signal);
      const ssh = performance.now() - begin;
      const sshCpu = cpuSeconds(vm.pid);
      const session = await contactGuest(
        {
          host: forward.hostAddress,
          port: forward.hostPort,
          username: 'docker',
          privateKey: guest.privateKey,
          hostKey: undefined,
        },
        { timeoutMs: BOOT_TIMEOUT_MS, signal },
      );
      await session.check(askDocker, { timeoutMs: BOOT_TIMEOUT_MS });
      const docker = performance.now() - begin;
      const dockerCpu = cpuSeconds(vm.pid);
      session.close();
      return {
        [`${guest.name} ssh`]: ssh / 1000,
        [`${guest.name} docker`]: docker / 1000,
        [`${guest.name} ssh cpu`]: sshCpu,
        [`${guest.name} docker cpu`]: dockerCpu,
      };
    } finally {
      await vm.kill();
      await rm(runDirectory, { recursive: true, force: true });
    }
  };
}

/** CPU time of a process so far, which other work on the host hardly changes (proc(5): utime and stime in ticks). */
function cpuSeconds(pid: number | undefined): number {
  const fields =
    readFileSync(`/proc/${String(pid)}/stat`, 'latin1')
      .split(') ')[1]
      ?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

/** The same for all guests but for what the guest itself brings. */
function spec(guest: Guest, disk: string): VmSpec {
  return {
    name: 'bench',
    uuid: '7b4f6cde-1e0a-8000-8000-000000000001',
    cpus: 2,
    memoryMiB: MEMORY_MIB,
    boot: guest.boot,
    disks: [{ id: 'data', path: disk, readOnly: false }, ...guest.otherDisks],
    network: {
      mode: 'user',
      mac: '52:54:00:12:34:56',
      hostname: 'bench',
      hostAddress: '127.0.0.1',
      forwards: [{ name: 'ssh', guestPort: 22, hostPorts: [0] }],
    },
  };
}

/** Resolves with the first byte of an SSH banner. */
async function sshBanner(host: string, port: number, signal: AbortSignal): Promise<void> {
  const over = new AbortController();
  const done = AbortSignal.any([over.signal, signal]);
  // One listener a knock.
  setMaxListeners(0, done);
  try {
    const banner = new Promise<void>((resolve) => {
      void knockUntil(done, () => {
        knock(host, port, done, resolve);
      });
    });
    await within(banner, BOOT_TIMEOUT_MS, 'the SSH banner of the guest', signal);
  } finally {
    over.abort();
  }
}

async function knockUntil(done: AbortSignal, once: () => void): Promise<void> {
  while (!done.aborted) {
    once();
    await sleep(KNOCK_INTERVAL_MS, done).catch(() => undefined);
  }
}

function knock(host: string, port: number, done: AbortSignal, heard: () => void): void {
  const socket = connect({ host, port, noDelay: true });
  const end = () => socket.destroy();
  const timer = setTimeout(end, KNOCK_TIMEOUT_MS);
  done.addEventListener('abort', end, { once: true });
  socket.on('data', (chunk: Buffer) => {
    if (chunk.toString('latin1').startsWith('SSH-')) heard();
    end();
  });
  socket.on('error', () => undefined);
  socket.on('close', () => {
    clearTimeout(timer);
    done.removeEventListener('abort', end);
  });
}
