import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { World, cannotRun } from '../minikube/world.js';
import { Cluster, isReady } from './cluster.js';

describe.skipIf(cannotRun)('Kubernetes from the seeded cache, without a network', () => {
  const world = new World();
  const profile = 'kube';
  const claim = 'claim';
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
    await cluster.ready('pod/still');
    expect(await cluster.lookUp('kubernetes.default.svc.cluster.local', profile)).toMatch(/Address: 10\.96\.0\.1\b/);
  });

  test('a claim of storage is met, with a folder of the node', async () => {
    const spec = { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '8Mi' } } };
    const file = join(world.folder, 'claim.json');
    writeFileSync(
      file,
      JSON.stringify({ apiVersion: 'v1', kind: 'PersistentVolumeClaim', metadata: { name: claim }, spec }),
    );
    await cluster.kubectl('apply', '-f', file);
    await cluster.kubectl('wait', '--for=jsonpath={.status.phase}=Bound', `pvc/${claim}`, '--timeout=9m');
    await world.ssh(profile, `echo kept | sudo tee /tmp/hostpath-provisioner/default/${claim}/note`);
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
    await cluster.ready('pod/still');
    expect((await systemPods()).length).toBeGreaterThanOrEqual(6);
    expect(await world.ssh(profile, `cat /tmp/hostpath-provisioner/default/${claim}/note`)).toBe('kept');
  });
});
