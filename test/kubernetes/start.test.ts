import { resolve } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { run } from '../../driver/base/index.js';
import { World, cannotRun, image } from '../minikube/world.js';

const seed = resolve(import.meta.dirname, '../../integrations/minikube/seed/seed.sh');

interface Condition {
  readonly type: string;
  readonly status: string;
}

const ready = (conditions: readonly Condition[] = []) =>
  conditions.some(({ type, status }) => type === 'Ready' && status === 'True');

describe.skipIf(cannotRun)('Kubernetes from the seeded cache, without a network', () => {
  const world = new World();
  const profile = 'kube';
  beforeAll(async () => {
    await world.open();
    // Not in the world's own HOME, as the user's leads to the caches of Go and of the seed.
    const seeded = await run(seed, ['--minikube-home', world.home], { timeoutMs: 3_500_000 });
    expect(seeded.code, seeded.stdout + seeded.stderr).toBe(0);
    // A node needs an address of its own.
    expect(await world.tshyve('network', 'up', 'shared')).toMatchObject({ code: 0 });
  }, 3_600_000);
  afterAll(() => world.close());

  const start = async (...more: string[]) => {
    // No limit but the test's own: the processors are emulated, which is ten times slower than what minikube reckons with.
    const { output, ended } = world.spawn(
      ...['start', '-p', profile, '--driver=tshyve', '--container-runtime=containerd', '--cni=bridge'],
      ...['--preload=false', '--network=shared', `--iso-url=file://${image}`, '--memory=2600', '--cpus=2'],
      ...['--disk-size=8000', '--interactive=false', '--force', '--wait-timeout=30m', ...more],
    );
    expect(await ended, output()).toBe(0);
  };
  const kubectl = (...args: string[]) => world.ok('kubectl', '-p', profile, '--', ...args);
  /** Names of the system's pods that are ready. */
  const systemPods = async () => {
    const told = JSON.parse(await kubectl('get', 'pods', '-n', 'kube-system', '-o', 'json')) as {
      items: { metadata: { name: string }; status: { conditions?: Condition[] } }[];
    };
    return told.items.filter(({ status }) => ready(status.conditions)).map(({ metadata }) => metadata.name);
  };

  test('start, until the node and the pods of the system are ready', async () => {
    await start('--wait=all');
    const node = JSON.parse(await kubectl('get', 'node', profile, '-o', 'json')) as {
      status: { conditions: Condition[]; nodeInfo: { containerRuntimeVersion: string } };
    };
    expect(ready(node.status.conditions)).toBe(true);
    expect(node.status.nodeInfo.containerRuntimeVersion).toMatch(/^containerd:/);
    expect((await systemPods()).sort().join(' ')).toMatch(
      /coredns-\S+ etcd-kube kube-apiserver-kube kube-controller-manager-kube kube-proxy-\S+ kube-scheduler-kube/,
    );
    expect(await world.status(profile)).toMatchObject({ code: 0, nodes: [{ Host: 'Running', Kubelet: 'Running' }] });
  });

  test('a pod runs, and a name of the cluster resolves through a service', async () => {
    // There is no registry: what is in the guest is all there is.
    await kubectl('run', 'still', '--image=registry.k8s.io/pause:3.10.1', '--image-pull-policy=Never');
    await kubectl('wait', '--for=condition=Ready', 'pod/still', '--timeout=300s');
    const dns = await kubectl('get', 'service', '-n', 'kube-system', 'kube-dns', '-o', 'jsonpath={.spec.clusterIP}');
    const name = 'kubernetes.default.svc.cluster.local';
    expect(await world.ssh(profile, `busybox nslookup -type=a ${name} ${dns}`)).toMatch(/Address: 10\.96\.0\.1\b/);
  });

  test('pause holds the control plane still, unpause lets it go on', async () => {
    await world.ok('pause', '-p', profile);
    expect((await world.minikube('status', '-p', profile)).out).toContain('apiserver: Paused');
    await world.ok('unpause', '-p', profile);
    expect(await world.status(profile)).toMatchObject({ code: 0 });
    expect(await kubectl('get', 'pod', 'still', '-o', 'jsonpath={.status.phase}')).toBe('Running');
  });

  test('after stop and start the cluster is what it was', async () => {
    await world.ok('stop', '-p', profile);
    expect((await world.status(profile)).nodes).toMatchObject([{ Host: 'Stopped' }]);
    await start('--wait=all');
    await kubectl('wait', '--for=condition=Ready', 'pod/still', '--timeout=300s');
    expect((await systemPods()).length).toBeGreaterThanOrEqual(6);
  });
});
