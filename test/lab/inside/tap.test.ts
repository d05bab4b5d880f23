import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { run } from '../../../driver/base/index.js';
import { files, withGuest } from './guest.js';
import './lab.js';

const tap = 'labtap0';
const host = '10.91.0.1';

async function ip(...args: string[]): Promise<void> {
  const { code, stderr } = await run('ip', args, { timeoutMs: 20_000 });
  expect(code, `ip ${args.join(' ')}: ${stderr}`).toBe(0);
}

/** The lab machine has no other network: nothing leaves it. */
beforeAll(async () => {
  await ip('tuntap', 'add', 'dev', tap, 'mode', 'tap');
  await ip('address', 'add', `${host}/24`, 'dev', tap);
  await ip('link', 'set', tap, 'up');
});
afterAll(() => ip('link', 'delete', tap));

/** What a process has open. */
function openFiles(pid: number): string[] {
  const folder = `/proc/${String(pid)}/fd`;
  return readdirSync(folder).flatMap((name) => {
    try {
      return [readlinkSync(join(folder, name))];
    } catch {
      return [];
    }
  });
}

test('a guest on a tap exchanges data with the host both ways, by vhost-net', async () => {
  const peer = spawn(join(files, 'stream'), [host], { stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    const [line] = (await once(peer.stdout, 'data')) as [Buffer];
    const words = `lab.task=stream lab.seconds=2 lab.ip=10.91.0.2/24 lab.peer=${host}:${String(Number(line.toString()))}`;
    const console = await withGuest('core', { kernel: 'cloud-6.1', memoryMiB: 256, tap, words }, async (guest) => {
      await guest.waitFor(/stream \S+ mbit=/);
      expect(openFiles(guest.pid)).toContain('/dev/vhost-net');
      expect(await guest.end()).toBe(0);
      return guest.console;
    });
    const rates = Array.from(console.matchAll(/stream (\S+) mbit=([\d.]+)/g), ([, way, mbit]) => ({
      way,
      mbit: Number(mbit),
    }));
    expect(rates.map(({ way }) => way).sort()).toEqual(['guest-to-host', 'host-to-guest']);
    for (const { mbit } of rates) expect(mbit).toBeGreaterThan(1);
  } finally {
    peer.kill();
  }
});
