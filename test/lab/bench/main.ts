// Figures of the native core beside QEMU's microvm and q35 machines under the same KVM: start to the first line of user
// space, memory of the machine's process beyond its guest's, disk, network. Runs in the lab machine and leaves its raw
// values in /results/figures.json for table.ts; see test/lab/bench.sh. Usage: bench.cjs [BOOTS]
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { type GuestOptions, files, withGuest } from '../inside/guest.js';
import { type Competitor, type Figures, competitors } from './figures.js';

const boots = Number(process.argv[2] ?? 2);
const kernel = 'cloud-6.1';
const diskMiB = 256;
/** What the emulation below may cost: see README.md. A machine that fails for a reason of its own fails each time. */
const attempts = 3;

let figures: Figures = {};
function note(figure: string, competitor: Competitor, value: number): void {
  const row = (figures[figure] ??= { core: [], microvm: [], q35: [] });
  row[competitor].push(value);
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

async function boot(competitor: Competitor): Promise<void> {
  await withGuest(competitor, { kernel, memoryMiB: 256, words: 'lab.task=button', network: true }, async (guest) => {
    await guest.waitFor(/tshyve-lab: user space/);
    note('start to user space, ms', competitor, guest.millisecondsTo('tshyve-lab: user space'));
    await guest.waitFor(/waiting for the power button/);
    note('memory beyond the guest, KiB', competitor, residentBesidesGuest(guest.pid));
  });
}

async function disk(competitor: Competitor, path: string): Promise<void> {
  const options: GuestOptions = { kernel, memoryMiB: 256, disks: [path], words: 'lab.task=disk lab.seconds=2' };
  await withGuest(competitor, options, async (guest) => {
    await guest.end(180_000);
    let found = 0;
    for (const [, name = '', iops, mib] of guest.console.matchAll(/disk (\S+) iops=([\d.]+) mib=([\d.]+)/g)) {
      if (name.startsWith('sequential')) note(`disk ${name}, MiB/s`, competitor, Number(mib));
      else note(`disk ${name}, operations/s`, competitor, Number(iops));
      found++;
    }
    if (found !== 6) throw new Error(`${String(found)} of 6 figures came.\n${guest.console.slice(-2000)}`);
  });
}

async function stream(competitor: Competitor, port: number): Promise<void> {
  const words = `lab.task=stream lab.seconds=3 lab.gateway=10.0.2.2 lab.peer=10.0.2.2:${String(port)}`;
  await withGuest(competitor, { kernel, memoryMiB: 256, network: true, words }, async (guest) => {
    await guest.end(180_000);
    let found = 0;
    for (const [, way, mbit] of guest.console.matchAll(/stream (\S+) mbit=([\d.]+)/g)) {
      note(`TCP ${String(way)}, Mbit/s`, competitor, Number(mbit));
      found++;
    }
    if (found !== 2) throw new Error(`${String(found)} of 2 figures came.\n${guest.console.slice(-2000)}`);
  });
}

async function listen(): Promise<{ peer: ChildProcess; port: number }> {
  const peer = spawn(join(files, 'stream'), ['127.0.0.1'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [line] = (await once(peer.stdout, 'data')) as [Buffer];
  return { peer, port: Number(line.toString()) };
}

/** Measures once, again where a guest failed; what was noted of a failed one is kept out. */
async function measure(what: string, competitor: Competitor, once: () => Promise<void>): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const before = structuredClone(figures);
    try {
      await once();
      return;
    } catch (error) {
      figures = before;
      console.log(`${what} on ${competitor} failed (attempt ${String(attempt)}): ${String(error)}`);
      if (attempt === attempts) throw error;
    }
  }
}

async function main(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'bench-'));
  const image = join(folder, 'disk.img');
  // Allocated, so that every machine meets the same file.
  execFileSync('dd', ['if=/dev/urandom', `of=${image}`, 'bs=1M', `count=${String(diskMiB)}`, 'status=none']);
  const { peer, port } = await listen();
  try {
    for (let round = 0; round <= boots; round++) {
      for (const competitor of competitors) await measure('boot', competitor, () => boot(competitor));
      // The first round warms the page cache.
      if (round === 0) figures = {};
    }
    for (const competitor of competitors) {
      await measure('disk', competitor, () => disk(competitor, image));
      await measure('stream', competitor, () => stream(competitor, port));
    }
  } finally {
    peer.kill();
    rmSync(folder, { recursive: true, force: true });
  }
  writeFileSync('/results/figures.json', JSON.stringify(figures));
}

main().catch((error: unknown) => {
  console.error(error);
  process.exit(1);
});
