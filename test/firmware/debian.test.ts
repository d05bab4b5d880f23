import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { World } from '../e2e/world.js';

// A disk as clouds have it: nothing of it is ours, but what its cloud-init is told.
const world = new World();
const folder = mkdtempSync(join(tmpdir(), 'tsd-'));
beforeAll(() => {
  execFileSync(resolve(import.meta.dirname, 'debian-disk.sh'), [folder], { stdio: ['ignore', 'inherit', 'inherit'] });
});
afterAll(async () => {
  await world.close();
  rmSync(folder, { recursive: true });
});

test('docker-machine sets up Debian that firmware boots from a further disk', async () => {
  const flags = {
    hypervisor: 'qemu',
    memory: '1024',
    'image-url': `file://${join(folder, 'seed.iso')}`,
    'extra-disk': join(folder, 'debian.img'),
    'ssh-user': 'debian',
  };
  const said = await world.ok(
    ...['create', '-d', 'tshyve', '--tshyve-firmware'],
    ...Object.entries(flags).flatMap(([name, value]) => [`--tshyve-${name}`, value]),
    'cloud',
  );
  expect(said).toContain('Provisioning with debian');
  expect(said).toContain('Docker is up and running!');
  expect(await world.ok('ssh', 'cloud', 'hostname; test -d /sys/firmware/efi && findmnt -no LABEL /')).toBe(
    'cloud\ncloud-root',
  );
  expect(await world.ok('ls')).toMatch(/^cloud +\S+ +tshyve +Running +tcp:\/\/\S+ +v20\.10/m);
});

test('what it has written to its disk is there after stop and start', async () => {
  await world.ok('ssh', 'cloud', 'echo kept >kept');
  await world.ok('stop', 'cloud');
  await world.ok('start', 'cloud');
  expect(await world.ok('ssh', 'cloud', 'cat kept')).toBe('kept');
  await world.ok('rm', '-y', 'cloud');
  await world.expectGone('cloud');
});
