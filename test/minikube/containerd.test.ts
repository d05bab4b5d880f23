import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { World, cannotRun } from './world.js';

describe.skipIf(cannotRun)('minikube with containerd and without Kubernetes', () => {
  const world = new World();
  const profile = 'two';
  beforeAll(async () => {
    await world.open();
  });
  afterAll(() => world.close());
  /** Whether crictl reaches the runtime and what it says of it. */
  const info = async () =>
    JSON.parse(await world.ssh(profile, 'sudo crictl info')) as {
      status: { conditions: { type: string; status: boolean }[] };
      config: { cni: { binDir: string } };
    };

  test('start', async () => {
    expect(await world.start(profile, '--container-runtime=containerd')).toContain('containerd 1.');
    const { status, config } = await info();
    expect(status.conditions).toContainEqual(expect.objectContaining({ type: 'RuntimeReady', status: true }));
    expect(await world.ssh(profile, `ls ${config.cni.binDir}`)).toMatch(/bridge[^]*host-local[^]*loopback[^]*portmap/);
    expect((await world.minikube('ssh', '-p', profile, '--', 'systemctl is-active docker')).out).toBe('inactive');
  });

  test('the image is what minikube’s TestISOImage wants, but for podman', async () => {
    const programs = ['crictl', 'curl', 'docker', 'git', 'iptables', 'rsync', 'socat', 'wget'];
    await world.ssh(profile, `sudo which ${programs.join(' ')} conntrack ebtables ethtool lz4 cri-dockerd`);
    const folders = ['docker', 'cni', 'kubelet', 'minikube', 'toolbox', 'boot2docker'].map(
      (name) => `/var/lib/${name}`,
    );
    for (const folder of ['/data', ...folders])
      expect(await world.ssh(profile, `findmnt -n -o FSTYPE ${folder}`)).toBe('ext4');
    expect(JSON.parse(await world.ssh(profile, 'cat /version.json'))).toHaveProperty('minikube_version');
    await world.ssh(profile, 'test -f /sys/kernel/btf/vmlinux && sudo modinfo nvme-tcp br_netfilter ip_vs > /dev/null');
  });

  test('containers run', async () => {
    await world.ssh(
      profile,
      'mkdir -p box/bin && cp /bin/busybox box/bin/ && for f in $(ldd /bin/busybox | grep -o "/lib[^ ]*"); do mkdir -p box$(dirname $f) && cp -L $f box$f; done',
    );
    const run = 'sudo ctr run --rm --rootfs $PWD/box hello /bin/busybox echo from a container';
    expect(await world.ssh(profile, run)).toBe('from a container');
  });

  test('stop and start again', async () => {
    await world.ok('stop', '-p', profile);
    await world.start(profile);
    expect((await info()).status.conditions[0]?.status).toBe(true);
    expect(await world.ok('profile', 'list')).toMatch(/two .*tshyve .*containerd/);
  });

  test('delete leaves nothing', async () => {
    await world.ok('delete', '-p', profile);
    await world.expectNothingLeft();
  });
});
