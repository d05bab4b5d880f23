import { copyFileSync, constants, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { run } from '../../../driver/base/index.js';
import { files as labFiles, withGuest } from './guest.js';
import './lab.js';

/** The guest writes on as many processors as this. */
const writers = 2;
const kills = Number(process.env['LAB_KILLS'] ?? 10);
/** Guests at a time. */
const lanes = 2;
/** After the first record is durable, within so many milliseconds. */
const window = 1500;
const checker = join(labFiles, 'check-records');

const folder = mkdtempSync(join(tmpdir(), 'kill-'));
const empty = join(folder, 'empty.img');

beforeAll(async () => {
  await must('truncate', '-s', '192M', empty);
  await must('mkfs.ext4', '-q', '-J', 'size=4', empty);
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

async function must(program: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(program, args, { timeoutMs: 120_000 });
  expect(code, `${program} ${args.join(' ')}: ${stdout}\n${stderr}`).toBe(0);
  return stdout;
}

/** Kills one machine under load, repairs its disk as a mount would, checks it. Returns how many records were durable. */
async function killOnce(number: number): Promise<number> {
  const disk = join(folder, `disk-${String(number)}.img`);
  copyFileSync(empty, disk, constants.COPYFILE_FICLONE);
  const words = `lab.task=write lab.writers=${String(writers)}`;
  const console = await withGuest(
    'core',
    { kernel: 'cloud-6.1', memoryMiB: 256, disks: [disk], words },
    async (guest) => {
      await guest.waitFor(/tshyve-lab: ack 0 0\r?\n/);
      await new Promise((wake) => setTimeout(wake, Math.random() * window));
      guest.kill();
      await guest.exited;
      return guest.console;
    },
  );
  expect(console).not.toContain('failed');
  // Only the journal is replayed; whatever else were wrong would show in the check that follows, which changes nothing.
  const replay = await run('e2fsck', ['-y', '-E', 'journal_only', disk], { timeoutMs: 120_000 });
  expect(replay.code, replay.stdout + replay.stderr).toBeLessThanOrEqual(1);
  await must('e2fsck', '-fn', disk);
  const files = join(folder, `files-${String(number)}`);
  await must('mkdir', files);
  await must('debugfs', '-R', `rdump / ${files}`, disk);
  let durable = 0;
  for (let writer = 0; writer < writers; writer++) {
    // The last line may be cut.
    const acknowledged = [...console.matchAll(new RegExp(`tshyve-lab: ack ${String(writer)} (\\d+)\r?\n`, 'g'))];
    const last = acknowledged.at(-1)?.[1];
    if (last === undefined) continue;
    await must(checker, join(files, `writer-${String(writer)}`), String(writer), last);
    durable += Number(last) + 1;
  }
  rmSync(files, { recursive: true });
  rmSync(disk);
  return durable;
}

test(
  `${String(kills)} machines killed while they write lose nothing that was flushed`,
  { timeout: 3_600_000 },
  async () => {
    let next = 0;
    let durable = 0;
    const lane = async () => {
      while (next < kills) durable += await killOnce(next++);
    };
    await Promise.all(Array.from({ length: lanes }, lane));
    console.log(`${String(kills)} kills, ${String(durable)} records checked`);
    // A guest that wrote next to nothing would prove next to nothing.
    expect(durable).toBeGreaterThan(kills * 5);
  },
);
