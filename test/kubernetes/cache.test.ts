import { readFileSync, rmSync, writeFileSync } from 'node:fs';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { World, cannotRun } from '../minikube/world.js';
import { Cluster } from './cluster.js';

describe.skipIf(cannotRun)('the cache for Kubernetes that seed.sh fills', () => {
  const world = new World();
  const cluster = new Cluster(world, 'kube');
  beforeAll(() => world.open());
  afterAll(() => world.close());

  /** What minikube fetches before a start. */
  const download = () => world.minikube(...cluster.startArgs('--cni=bridge', '--download-only'));
  const list = async (state: string) => {
    const lines = (await cluster.seed('--list')).split('\n');
    return lines.flatMap((line) => (line.startsWith(state) ? [line.slice(state.length).trim()] : []));
  };

  test('minikube cannot do without it', async () => {
    expect(await list('present')).toEqual([]);
    const { code, out, err } = await download();
    expect(code).not.toBe(0);
    expect(out + err).toMatch(/kubeadm|kubelet|kubectl|images/);
  });

  test('says what it holds, and by exact name what it cannot', async () => {
    expect(await cluster.seed()).toContain('11 of 11 files placed');
    expect(await list('missing')).toEqual([]);
    expect((await list('present')).join('\n')).toMatch(/kubeadm[^]*kube-proxy_v1[^]*pause_[^]*storage-provisioner_v5/);
    expect((await list('not ours')).join('\n')).toMatch(/preloaded-images-k8s-v.*\.tar\.lz4[^]*kindnetd_v/);
  });

  test('minikube finds all that it would download', async () => {
    const { code, out, err } = await download();
    expect(code, out + err).toBe(0);
    expect(out).toContain('Download complete!');
  });

  test('a damaged or missing file is put right, and nothing else is touched', async () => {
    const [first = '', second = ''] = await list('present');
    const whole = readFileSync(first);
    writeFileSync(first, 'damaged');
    rmSync(second);
    expect(await list('missing')).toEqual([second]);
    expect(await cluster.seed()).toContain('2 of 11 files placed');
    expect(readFileSync(first).equals(whole)).toBe(true);
  });
});
