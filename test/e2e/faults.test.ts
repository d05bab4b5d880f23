import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type Server, createServer } from 'node:net';
import { join } from 'node:path';

import { afterAll, describe, expect, test } from 'vitest';

import { World, cannotRun, image } from './world.js';

describe.skipIf(cannotRun)('faults', () => {
  const world = new World();
  afterAll(() => world.close());
  const create = (...flags: string[]) =>
    world.machine('create', '-d', 'tshyve', '--tshyve-memory', '512', ...flags, 'f');

  test('a truncated image is refused and leaves nothing', async () => {
    const truncated = join(world.folder, 'truncated.iso');
    writeFileSync(truncated, readFileSync(image).subarray(0, 50_000_000));
    const result = await create('--tshyve-image-url', `file://${truncated}`);
    expect(result.code).not.toBe(0);
    expect(result.err).toContain('cut short');
    rmSync(truncated);
    await world.machine('rm', '-f', '-y', 'f');
    await world.expectGone('f');
  });

  test('a wrong checksum is refused with both sums and leaves nothing', async () => {
    const result = await create('--tshyve-image-sha256', 'f'.repeat(64));
    expect(result.code).not.toBe(0);
    expect(result.err).toMatch(/has the SHA-256 checksum [0-9a-f]{64}, but f{64} was asked for/);
    await world.machine('rm', '-f', '-y', 'f');
    await world.expectGone('f');
  });

  test.skipIf(process.getuid?.() !== 0 && process.env['CI'] !== 'true')(
    'a full disk is named and leaves nothing',
    async () => {
      mkdirSync(world.store, { recursive: true });
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=60m', 'tshyve-test', world.store]);
      try {
        const result = await create();
        expect(result.code).not.toBe(0);
        expect(result.err).toContain('the disk is full');
        await world.machine('rm', '-f', '-y', 'f');
        await world.expectGone('f');
      } finally {
        execFileSync('umount', [world.store]);
      }
    },
  );

  test('a taken port is moved away from; a half-deleted folder is told and removed', async () => {
    const taken: Server = createServer().listen(2376, '0.0.0.0');
    await once(taken, 'listening');
    try {
      expect(await create()).toMatchObject({ code: 0 });
      const url = await world.ok('url', 'f');
      expect(url).toMatch(/^tcp:\/\/127\.\d+\.\d+\.\d+:\d+$/);
      expect(url).not.toMatch(/:2376$/);
      expect(await world.ok('ls')).toContain('v20.10');
    } finally {
      taken.close();
    }
    await world.ok('stop', 'f');
    for (const name of ['kernel', 'boot2docker.iso', 'vmm.lock']) rmSync(join(world.machineFolder('f'), name));
    expect((await world.machine('start', 'f')).err).toContain('boot2docker.iso is missing');
    rmSync(join(world.machineFolder('f'), 'tshyve.json'));
    const begun = performance.now();
    expect(await world.ok('ls')).not.toMatch(/Running/);
    expect(performance.now() - begun).toBeLessThan(2000);
    await world.ok('rm', '-y', 'f');
    await world.expectGone('f');
  });
});
