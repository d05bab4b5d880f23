import { readdirSync, utimesSync } from 'node:fs';
import { join } from 'node:path';

import { afterAll, describe, expect, test } from 'vitest';

import { World, cannotRun, within } from './world.js';

describe.skipIf(cannotRun)('suspending', () => {
  const world = new World();
  afterAll(() => world.close());
  const bootId = () => world.ok('ssh', 's', 'cat /proc/sys/kernel/random/boot_id');
  let booted = '';
  let url = '';

  test('a suspended machine is saved, and nothing of it runs', async () => {
    await world.ok('create', '-d', 'tshyve', '--tshyve-memory', '512', 's');
    await world.ok('ssh', 's', 'echo kept > /dev/shm/file; (sleep 1000 >/dev/null 2>&1 &)');
    booted = await bootId();
    url = await world.ok('url', 's');
    await world.tshyveOk('suspend', 's');
    expect(await world.ok('status', 's')).toBe('Saved');
    expect(await world.tshyveOk('status', 's')).toBe('saved');
    expect((await world.machine('url', 's')).err).toContain('Host is not running');
    // docker-machine does not wait for its plugin's end.
    await expect.poll(() => world.processes(), { timeout: within(2000) }).toEqual([]);
    await world.tshyveOk('suspend', 's');
  });

  test('start resumes it: memory, processes, address and clock', async () => {
    await world.ok('start', 's');
    expect(await world.ok('status', 's')).toBe('Running');
    expect(await world.ok('url', 's')).toBe(url);
    expect(await bootId()).toBe(booted);
    expect(await world.ok('ssh', 's', 'cat /dev/shm/file; pgrep -x sleep | wc -l')).toBe('kept\n1');
    const skew = Number(await world.ok('ssh', 's', 'date +%s')) - Date.now() / 1000;
    expect(Math.abs(skew)).toBeLessThan(10);
    expect(await world.ok('ssh', 's', 'docker info --format "{{.ServerVersion}}"')).toMatch(/^20\.10/);
    expect(readdirSync(world.machineFolder('s')).filter((name) => name.startsWith('saved'))).toEqual([]);
  });

  test('a state that does not fit its disk is refused and kept; kill gives it up; start boots afresh', async () => {
    await world.tshyveOk('suspend', 's');
    utimesSync(join(world.machineFolder('s'), 'disk.img'), 1, 1);
    const refused = await world.machine('start', 's');
    expect(refused.code).not.toBe(0);
    expect(refused.err).toMatch(/does not fit any more.*disk\.img has been changed since.*docker-machine kill/);
    expect(await world.ok('status', 's')).toBe('Saved');
    await world.ok('kill', 's');
    expect(await world.ok('status', 's')).toBe('Stopped');
    await world.ok('start', 's');
    expect(await bootId()).not.toBe(booted);
  });

  test('a dead supervisor loses a running machine only, not a saved one', async () => {
    await world.ok('ssh', 's', 'echo written > file; sync');
    await world.tshyveOk('suspend', 's');
    await world.ok('start', 's');
    const supervisors = world.processes().filter((process) => process.includes('tshyve-vmm'));
    expect(supervisors).toHaveLength(1);
    process.kill(Number.parseInt(supervisors[0] ?? '', 10), 'SIGKILL');
    await expect.poll(() => world.processes(), { timeout: within(5000) }).toEqual([]);
    expect(await world.ok('status', 's')).toBe('Stopped');
    await world.ok('start', 's');
    expect(await world.ok('ssh', 's', 'cat file')).toBe('written');
  });

  test('stop resumes a saved machine to shut it down; rm deletes a saved one', async () => {
    await world.ok('ssh', 's', 'echo unwritten > late');
    await world.tshyveOk('suspend', 's');
    await world.ok('stop', 's');
    expect(await world.ok('status', 's')).toBe('Stopped');
    await world.ok('start', 's');
    expect(await world.ok('ssh', 's', 'cat late')).toBe('unwritten');
    await world.tshyveOk('suspend', 's');
    await world.ok('rm', '-y', 's');
    await world.expectGone('s');
  });
});
