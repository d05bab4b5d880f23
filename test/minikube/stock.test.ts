import { rmSync } from 'node:fs';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { World, cannotRun, image } from './world.js';

describe.skipIf(cannotRun)('a minikube that does not know our driver', () => {
  // The driver "ssh" of the minikube that we build is upstream's.
  const world = new World();
  const store = join(world.folder, 'store');
  const tshyve = (...args: string[]) => world.inside('tshyve', '-s', store, ...args);
  beforeAll(async () => {
    Object.assign(world.env, { TSHYVE_IMAGE_URL: image });
    await world.open();
  });
  afterAll(async () => {
    await world.minikube('delete', '-p', 'stock');
    await tshyve('rm', '-f', 'stock');
    await world.close();
  });

  test('takes a machine that tshyve minikube start makes', async () => {
    const flags = ['--no-kubernetes', '--container-runtime=docker', '--interactive=false', '--force'];
    const said = await tshyve('minikube', 'start', '--name', 'stock', '--', ...flags);
    expect(said).toContain('Using the ssh driver');
    expect(said).toContain('minikube is ready without Kubernetes');
    expect(await world.ssh('stock', 'hostname; docker info -f "{{.Labels}}"')).toBe('stock\n[provider=ssh]');
    expect(await tshyve('ip', 'stock')).toBe(await world.ok('ip', '-p', 'stock'));
  });

  test('and again after a restart', async () => {
    await tshyve('stop', 'stock');
    const flags = ['--no-kubernetes', '--interactive=false', '--force'];
    expect(await tshyve('minikube', 'start', '--name', 'stock', '--', ...flags)).toContain('minikube is ready');
  });

  test('a profile that minikube itself cannot delete is a matter of its files', async () => {
    // On its driver "ssh" it runs kubeadm, also where there is no Kubernetes (docs/minikube.md).
    expect(await world.minikube('delete', '-p', 'stock')).toMatchObject({
      code: 80,
      err: expect.stringContaining("'kubeadm': No such file") as unknown,
    });
    expect(await tshyve('status', 'stock')).toBe('running');
    for (const folder of ['profiles', 'machines']) rmSync(join(world.home, folder, 'stock'), { recursive: true });
    expect((await world.minikube('profile', 'list')).out).not.toContain('stock');
    await tshyve('rm', '-f', 'stock');
    await world.expectNothingLeft();
  });
});
