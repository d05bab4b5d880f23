import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { World, cannotRun } from './world.js';

describe.skipIf(cannotRun)('minikube with several machines', () => {
  const world = new World();
  beforeAll(async () => {
    await world.open();
  });
  afterAll(() => world.close());

  test('a start that Ctrl-C interrupts leaves no running machine, and may be repeated', async () => {
    const begun = world.spawn(...world.startArgs('one', '--container-runtime=docker'));
    // In the middle of a boot.
    await expect.poll(() => world.supervisors(), { timeout: 120_000, interval: 200 }).toHaveLength(1);
    await sleep(3_000);
    process.kill(-(begun.child.pid ?? 0), 'SIGINT');
    expect(await begun.ended).not.toBe(0);
    await expect.poll(() => world.processes(), { timeout: 30_000 }).toEqual([]);
    await world.start('one', '--container-runtime=docker');
    expect(await world.ssh('one', 'hostname')).toBe('one');
  });

  test('two profiles start at the same time', async () => {
    const said = await Promise.all(
      ['two', 'three'].map((profile) => {
        const shared = join(world.folder, profile);
        mkdirSync(shared);
        writeFileSync(join(shared, 'whose'), profile);
        return world.start(profile, '--container-runtime=docker', `--mount-string=${shared}:/minikube-host`);
      }),
    );
    for (const text of said) expect(text).toContain('minikube without Kubernetes');
    const profiles = ['one', 'two', 'three'];
    expect(await Promise.all(profiles.map((profile) => world.ssh(profile, 'hostname')))).toEqual(profiles);
    const addresses = await Promise.all(profiles.map((profile) => world.ok('ip', '-p', profile)));
    expect(new Set(addresses).size).toBe(3);
    const list = await world.ok('profile', 'list');
    for (const profile of profiles) expect(list).toMatch(new RegExp(`${profile} .*tshyve`));
  });

  test('each has the folder that it was started with, also after a restart', async () => {
    const whose = (profile: string) =>
      expect.poll(() => world.minikube('ssh', '-p', profile, '--', 'cat /minikube-host/whose'), { timeout: 30_000 });
    await whose('two').toMatchObject({ code: 0, out: 'two' });
    await whose('three').toMatchObject({ code: 0, out: 'three' });
    await world.ok('delete', '-p', 'two');
    await whose('three').toMatchObject({ code: 0, out: 'three' });
    await world.ok('stop', '-p', 'three');
    await world.start('three');
    await whose('three').toMatchObject({ code: 0, out: 'three' });
  });

  test('a deleted profile leaves the others alone', async () => {
    expect(existsSync(world.machineFolder('two'))).toBe(false);
    expect(await world.ssh('three', 'hostname')).toBe('three');
    await world.ok('delete', '--all');
    await world.expectNothingLeft();
  });

  test('two nodes share a network and see each other', async () => {
    expect(await world.tshyve('network', 'up', 'shared')).toMatchObject({ code: 0 });
    await world.start('pair', '--container-runtime=docker', '--nodes=2', '--network=shared');
    const { nodes } = await world.status('pair');
    expect(nodes.map(({ Name, Host }) => `${Name} ${Host}`)).toEqual(['pair Running', 'pair-m02 Running']);
    const address = (node: string) => world.ok('ip', '-p', 'pair', '-n', node);
    const [one, two] = [await address('pair'), await address('pair-m02')];
    expect(one).not.toBe(two);
    await world.ssh('pair', `ping -c 1 -W 5 ${two}`);
    expect(await world.ssh('pair', 'hostname', '-n', 'pair-m02')).toBe('pair-m02');
    expect(await world.ok('node', 'list', '-p', 'pair')).toMatch(/^pair\t.*\npair-m02\t/);
    await world.ok('node', 'stop', 'm02', '-p', 'pair');
    expect((await world.status('pair')).nodes.map(({ Host }) => Host)).toEqual(['Running', 'Stopped']);
    await world.ok('delete', '-p', 'pair');
    expect(await world.tshyve('network', 'down', 'shared')).toMatchObject({ code: 0 });
    await world.expectNothingLeft();
  });
});
