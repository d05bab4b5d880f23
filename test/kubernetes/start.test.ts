import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { World, cannotRun } from '../minikube/world.js';
import { Cluster, isReady } from './cluster.js';

describe.skipIf(cannotRun)('Kubernetes from the seeded cache, without a network', () => {
  const world = new World();
  const profile = 'kube';
  const cluster = new Cluster(world, profile);
  const start = () => cluster.start('--cni=bridge', '--memory=2600', '--wait=all');
  beforeAll(() => cluster.prepare(), 3_600_000);
  afterAll(() => world.close());

  /** Names of the system's pods that are ready. */
  const systemPods = async () =>
    (await cluster.items('pods', '-n', 'kube-system')).filter(isReady).map(({ metadata }) => metadata.name);

  test('start, until the node and the pods of the system are ready', async () => {
    await start();
    const [node] = await cluster.items('nodes');
    expect(node !== undefined && isReady(node)).toBe(true);
    expect(node?.status.nodeInfo?.containerRuntimeVersion).toMatch(/^containerd:/);
    expect((await systemPods()).sort().join(' ')).toMatch(
      /coredns-\S+ etcd-kube kube-apiserver-kube kube-controller-manager-kube kube-proxy-\S+ kube-scheduler-kube/,
    );
    expect(await world.status(profile)).toMatchObject({ code: 0, nodes: [{ Host: 'Running', Kubelet: 'Running' }] });
  });

  test('a pod runs, and a name of the cluster resolves through a service', async () => {
    // There is no registry: what is in the guest is all there is.
    await cluster.kubectl('run', 'still', '--image=registry.k8s.io/pause:3.10.1', '--image-pull-policy=Never');
    await cluster.kubectl('wait', '--for=condition=Ready', 'pod/still', '--timeout=300s');
    const service = ['service', '-n', 'kube-system', 'kube-dns', '-o', 'jsonpath={.spec.clusterIP}'];
    const dns = await cluster.kubectl('get', ...service);
    const name = 'kubernetes.default.svc.cluster.local';
    expect(await world.ssh(profile, `busybox nslookup -type=a ${name} ${dns}`)).toMatch(/Address: 10\.96\.0\.1\b/);
  });

  test('pause holds the control plane still, unpause lets it go on', async () => {
    await world.ok('pause', '-p', profile);
    expect((await world.minikube('status', '-p', profile)).out).toContain('apiserver: Paused');
    await world.ok('unpause', '-p', profile);
    expect(await world.status(profile)).toMatchObject({ code: 0 });
    expect(await cluster.kubectl('get', 'pod', 'still', '-o', 'jsonpath={.status.phase}')).toBe('Running');
  });

  test('after stop and start the cluster is what it was', async () => {
    await world.ok('stop', '-p', profile);
    expect((await world.status(profile)).nodes).toMatchObject([{ Host: 'Stopped' }]);
    await start();
    await cluster.kubectl('wait', '--for=condition=Ready', 'pod/still', '--timeout=300s');
    expect((await systemPods()).length).toBeGreaterThanOrEqual(6);
  });
});
