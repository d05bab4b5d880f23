// Figures of the native core beside QEMU's microvm and q35 machines under the same KVM, in one run: start to the first
// line of user space, memory of the machine's process beyond its guest's, disk, network. Runs in the lab machine; see
// test/lab/bench.sh. Usage: bench.cjs [ROUNDS]
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { type Backend, type GuestOptions, files, withGuest } from '../inside/guest.js';

const backends: readonly Backend[] = ['core', 'microvm', 'q35'];
const rounds = Number(process.argv[2] ?? 5);
const kernel = 'cloud-6.1';
const diskMiB = 256;

/** Values by figure and backend. */
const figures = new Map<string, Map<Backend, number[]>>();
function note(figure: string, backend: Backend, value: number): void {
  const row = figures.get(figure) ?? new Map<Backend, number[]>();
  figures.set(figure, row);
  row.set(backend, [...(row.get(backend) ?? []), value]);
}
function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const high = sorted[middle] ?? NaN;
  return sorted.length % 2 === 1 ? high : ((sorted[middle - 1] ?? NaN) + high) / 2;
}

/** KiB of a process that are not its guest's memory: the guest's is its largest mapping (proc_pid_smaps(5)). */
function residentBesidesGuest(pid: number): number {
  const sizes = readFileSync(`/proc/${String(pid)}/smaps`, 'utf8')
    .split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
    .map((mapping) => ({
      size: Number(/^Size: +(\d+) kB/m.exec(mapping)?.[1] ?? 0),
      resident: Number(/^Rss: +(\d+) kB/m.exec(mapping)?.[1] ?? 0),
    }));
  const guest = sizes.reduce((largest, mapping) => (mapping.size > largest.size ? mapping : largest));
  return sizes.reduce((sum, { resident }) => sum + resident, 0) - guest.resident;
}

async function boot(backend: Backend): Promise<void> {
  await withGuest(backend, { kernel, memoryMiB: 256, words: 'lab.task=button', network: true }, async (guest) => {
    await guest.waitFor(/tshyve-lab: user space/);
    note('start to user space, ms', backend, guest.millisecondsTo('tshyve-lab: user space'));
    await guest.waitFor(/waiting for the power button/);
    note('memory beyond the guest, KiB', backend, residentBesidesGuest(guest.pid));
  });
}

async function disk(backend: Backend, path: string): Promise<void> {
  const options: GuestOptions = { kernel, memoryMiB: 256, disks: [path], words: 'lab.task=disk lab.seconds=2' };
  await withGuest(backend, options, async (guest) => {
    await guest.end(180_000);
    for (const [, name = '', iops, mib] of guest.console.matchAll(/disk (\S+) iops=([\d.]+) mib=([\d.]+)/g)) {
      if (name.startsWith('sequential')) note(`disk ${name}, MiB/s`, backend, Number(mib));
      else note(`disk ${name}, operations/s`, backend, Number(iops));
    }
  });
}

async function stream(backend: Backend, port: number): Promise<void> {
  const words = `lab.task=stream lab.seconds=3 lab.gateway=10.0.2.2 lab.peer=10.0.2.2:${String(port)}`;
  await withGuest(backend, { kernel, memoryMiB: 256, network: true, words }, async (guest) => {
    await guest.end(180_000);
    for (const [, way, mbit] of guest.console.matchAll(/stream (\S+) mbit=([\d.]+)/g)) {
      note(`TCP ${String(way)}, Mbit/s`, backend, Number(mbit));
    }
  });
}

async function listen(): Promise<{ peer: ChildProcess; port: number }> {
  const peer = spawn(join(files, 'stream'), ['127.0.0.1'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [line] = (await once(peer.stdout, 'data')) as [Buffer];
  return { peer, port: Number(line.toString()) };
}

async function main(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'bench-'));
  const image = join(folder, 'disk.img');
  // Allocated, so that every machine meets the same file.
  execFileSync('dd', ['if=/dev/urandom', `of=${image}`, 'bs=1M', `count=${String(diskMiB)}`, 'status=none']);
  const { peer, port } = await listen();
  try {
    for (let round = 0; round <= rounds; round++) {
      for (const backend of backends) await boot(backend);
      // The first round warms the page cache.
      if (round === 0) figures.clear();
    }
    for (let round = 0; round < Math.ceil(rounds / 2); round++) {
      for (const backend of backends) await disk(backend, image);
      for (const backend of backends) await stream(backend, port);
    }
  } finally {
    peer.kill();
    rmSync(folder, { recursive: true, force: true });
  }
  // Beside the median the best of all rounds: what disturbs a busy host makes figures worse, never better.
  const lines = [
    'figure: median, best'.padEnd(42) + backends.map((name) => name.padStart(22)).join('') + '  core/microvm',
  ];
  const report: Record<string, Record<string, { median: number; best: number }>> = {};
  for (const [figure, row] of figures) {
    const best = (values: readonly number[]) => (/ms$|KiB$/.test(figure) ? Math.min(...values) : Math.max(...values));
    const cells = backends.map((backend) => {
      const values = row.get(backend) ?? [];
      return { backend, median: median(values), best: best(values) };
    });
    report[figure] = Object.fromEntries(cells.map(({ backend, ...cell }) => [backend, cell]));
    const [core, microvm] = cells;
    const ratio = (of: 'median' | 'best') => ((core?.[of] ?? NaN) / (microvm?.[of] ?? NaN)).toFixed(2).padStart(7);
    const text = cells.map((cell) => `${cell.median.toFixed(1).padStart(12)}${cell.best.toFixed(1).padStart(10)}`);
    lines.push(figure.padEnd(42) + text.join('') + ratio('median') + ratio('best'));
  }
  console.log(lines.join('\n'));
  writeFileSync('/results/bench.json', JSON.stringify(report, null, 2));
}

void main();
