import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { World, cannotRun } from '../minikube/world.js';
import { Cluster, isReady } from './cluster.js';

/** The least network of pods, one subnet a node: kindnet's image cannot be had, and minikube's bridge is for one node. */
const bridge = (subnet: string) =>
  JSON.stringify({
    cniVersion: '1.0.0',
    name: 'pods',
    plugins: [
      {
        type: 'bridge',
        bridge: 'cni0',
        isDefaultGateway: true,
        ipam: { type: 'host-local', ranges: [[{ subnet }]] },
      },
      { type: 'portmap', capabilities: { portMappings: true } },
    ],
  });

describe.skipIf(cannotRun)('a second node of Kubernetes, without a network', () => {
  const world = new World();
  const profile = 'kube';
  const nodes = ['kube', 'kube-m02'] as const;
  const cluster = new Cluster(world, profile);
  const subnet = (index: number) => `10.244.${String(index)}.0/24`;
  beforeAll(() => cluster.prepare(), 3_600_000);
  afterAll(() => world.close());

  test('joins by node add', async () => {
    await cluster.start('--cni=false', '--memory=2200', '--wait=none');
    await cluster.patiently('node', 'add');
    expect((await cluster.items('nodes')).map(({ metadata }) => metadata.name).sort()).toEqual(nodes);
    expect((await world.ok('node', 'list', '-p', profile)).split('\n')).toHaveLength(2);
  });

  test('both are ready once pods have a network', async () => {
    for (const [index, node] of nodes.entries()) {
      const file = join(world.folder, node);
      writeFileSync(file, bridge(subnet(index)));
      await world.ok('cp', '-p', profile, file, `${node}:/etc/cni/net.d/10-pods.conflist`);
      // One after the other: the pod of CoreDNS must find its place on the first, which has its image.
      await cluster.ready(`node/${node}`);
    }
    expect((await cluster.items('nodes')).map(isReady)).toEqual([true, true]);
  });

  test('the second gets its images from archives', async () => {
    // minikube 1.38 loads the images of its cache into the first node only; others would pull them.
    const images = join(world.home, 'cache/images/amd64/registry.k8s.io');
    for (const name of readdirSync(images).filter((file) => /^(?:pause|kube-proxy)_/.test(file)))
      await cluster.patiently('image', 'load', '--daemon=false', join(images, name));
    expect(await world.ssh(profile, 'sudo crictl images', '-n', nodes[1])).toMatch(/kube-proxy[^]*pause/);
  });

  test('a pod runs on the second, at an address that the first reaches', async () => {
    const overrides = JSON.stringify({ spec: { nodeName: nodes[1] } });
    const image = ['--image=registry.k8s.io/pause:3.10.1', '--image-pull-policy=Never'];
    await cluster.kubectl('run', 'there', ...image, `--overrides=${overrides}`);
    await cluster.ready('pod/there');
    const address = await cluster.kubectl('get', 'pod', 'there', '-o', 'jsonpath={.status.podIP}');
    expect(address).toMatch(/^10\.244\.1\./);
    const second = (await world.ok('ip', '-p', profile, '-n', nodes[1])).trim();
    await world.ssh(profile, `sudo ip route add ${subnet(1)} via ${second}`);
    await world.ssh(profile, `sudo busybox ping -c 1 -W 5 ${address}`);
  });

  test('a service answers on the second', async () => {
    await cluster.ready('pod', '--all', '-n', 'kube-system');
    const first = (await world.ok('ip', '-p', profile)).trim();
    await world.ssh(profile, `sudo ip route add ${subnet(0)} via ${first}`, '-n', nodes[1]);
    const answer = await cluster.lookUp('kubernetes.default.svc.cluster.local', nodes[1]);
    expect(answer).toMatch(/Address: 10\.96\.0\.1\b/);
  });

  test('node delete takes its machine away', async () => {
    await cluster.patiently('node', 'delete', nodes[1]);
    expect((await cluster.items('nodes')).map(({ metadata }) => metadata.name)).toEqual([nodes[0]]);
    expect((await world.ok('node', 'list', '-p', profile)).split('\n')).toHaveLength(1);
  });
});
