import { readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { World, cannotRun } from './world.js';

/** An image of busybox alone, made of the guest's own; there is no registry to get one from. */
const boxImage =
  'mkdir -p box/bin && cp /bin/busybox box/bin/ && for f in $(ldd /bin/busybox | grep -o "/lib[^ ]*"); do mkdir -p box$(dirname $f) && cp -L $f box$f; done && tar -C box -c . | docker import - box:1';

/** What `docker-env` tells a shell. */
function exported(script: string): Record<string, string> {
  return Object.fromEntries(
    [...script.matchAll(/^export (\w+)="(.*)"$/gm)].map(([, name, value]) => [name ?? '', value ?? '']),
  );
}

describe.skipIf(cannotRun)('minikube with Docker and without Kubernetes', () => {
  const world = new World();
  const profile = 'one';
  beforeAll(async () => {
    await world.open();
  });
  afterAll(() => world.close());

  test('start', async () => {
    const said = await world.start(profile, '--container-runtime=docker');
    expect(said).toContain('Using the tshyve (experimental) driver');
    expect(said).toContain('minikube without Kubernetes');
    expect(said).not.toContain('was not built for the current minikube');
  });

  test('status, ip and profile list know the machine', async () => {
    // 6: there is neither a kubelet nor an API server, and minikube reckons both as stopped.
    expect(await world.status(profile)).toMatchObject({
      code: 6,
      nodes: [{ Name: profile, Host: 'Running', Kubelet: 'Stopped' }],
    });
    const address = await world.ok('ip', '-p', profile);
    expect((await world.tshyve('ip', profile)).out).toBe(address);
    const list = await world.ok('profile', 'list');
    expect(list).toMatch(new RegExp(`${profile} .*tshyve .*docker .*${address.replaceAll('.', '\\.')}.*N/A`));
  });

  test('ssh, with the key that ssh-key names, and with its exit code', async () => {
    expect(await world.ssh(profile, 'hostname; id -un; . /etc/os-release; echo $ID')).toBe(
      `${profile}\ndocker\nbuildroot`,
    );
    expect((await world.minikube('ssh', '-p', profile, '--', 'exit 7')).code).not.toBe(0);
    expect(await world.ssh(profile, 'echo by our own client', '--native-ssh=true')).toBe('by our own client');
    const key = await world.ok('ssh-key', '-p', profile);
    expect(readFileSync(key, 'utf8')).toContain('PRIVATE KEY');
  });

  test('cp, both ways', async () => {
    const [here, back] = [join(world.folder, 'here'), join(world.folder, 'back')];
    writeFileSync(here, 'from the host\n'.repeat(50_000));
    await world.ok('cp', '-p', profile, here, '/data/there');
    expect(await world.ssh(profile, 'sudo wc -l /data/there')).toMatch(/^50000 /);
    await world.ok('cp', '-p', profile, `${profile}:/data/there`, back);
    expect(readFileSync(back, 'utf8')).toBe(readFileSync(here, 'utf8'));
  });

  test('docker-env leads to the Docker that minikube has set up', async () => {
    const env = exported(await world.ok('docker-env', '-p', profile, '--shell', 'bash'));
    expect(env['DOCKER_TLS_VERIFY']).toBe('1');
    const script = `
      const { readFileSync } = require('node:fs');
      const file = (name) => readFileSync(process.env.DOCKER_CERT_PATH + '/' + name);
      const url = process.env.DOCKER_HOST.replace('tcp:', 'https:') + '/info';
      const ask = (options) => new Promise((resolve) =>
        require('node:https').get(url, { ca: file('ca.pem'), ...options }, (answer) => {
          let text = '';
          answer.on('data', (bytes) => (text += bytes)).on('end', () => resolve(JSON.parse(text)));
        }).on('error', () => resolve('refused')));
      (async () => {
        const { Name, Labels, CgroupDriver } = await ask({ cert: file('cert.pem'), key: file('key.pem') });
        console.log(JSON.stringify({ Name, Labels, CgroupDriver, stranger: await ask({}) }));
      })();`;
    const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
    const told = await world.inside('env', ...variables, process.execPath, '-e', script);
    expect(JSON.parse(told)).toEqual({
      Name: profile,
      Labels: ['provider=tshyve'],
      CgroupDriver: 'cgroupfs',
      stranger: 'refused',
    });
  });

  test('containers run', async () => {
    await world.ssh(profile, boxImage);
    await world.ssh(profile, 'docker run -d --name web --restart always box:1 /bin/busybox sleep 100000');
    expect(await world.ssh(profile, 'docker inspect -f "{{.State.Status}}" web')).toBe('running');
  });

  test('mount shows a folder of the host as long as it runs', async () => {
    const shared = join(world.folder, 'shared');
    await world.host('mkdir', shared);
    writeFileSync(join(shared, 'here'), 'from the host');
    const mount = world.spawn('mount', '-p', profile, `${shared}:/mnt/shared`, '--uid=docker', '--gid=docker');
    try {
      await expect.poll(mount.output, { timeout: 60_000 }).toContain('Successfully mounted');
      expect(await world.ssh(profile, 'findmnt -n -o FSTYPE /mnt/shared && cat /mnt/shared/here')).toBe(
        '9p\nfrom the host',
      );
      await world.ssh(profile, 'echo from the guest > /mnt/shared/there');
      expect(readFileSync(join(shared, 'there'), 'utf8')).toBe('from the guest\n');
    } finally {
      process.kill(-(mount.child.pid ?? 0), 'SIGINT');
    }
    await mount.ended;
    expect((await world.minikube('ssh', '-p', profile, '--', 'findmnt /mnt/shared')).code).not.toBe(0);
  });

  test('stop and start again: what was made is there', async () => {
    await world.ssh(profile, 'echo kept | sudo tee /data/kept /tmp/hostpath_pv/kept > /dev/null');
    await world.ok('stop', '-p', profile);
    expect(await world.status(profile)).toMatchObject({ code: 7, nodes: [{ Host: 'Stopped' }] });
    expect((await world.minikube('ip', '-p', profile)).code).not.toBe(0);
    await world.start(profile);
    expect(await world.ssh(profile, 'cat /data/kept /tmp/hostpath_pv/kept')).toBe('kept\nkept');
    await expect
      .poll(() => world.ssh(profile, 'docker inspect -f "{{.State.Status}}" web'), { timeout: 60_000 })
      .toBe('running');
  });

  test('start after the machine was ended by force', async () => {
    const [supervisor] = world.supervisors();
    process.kill(supervisor ?? 0, 'SIGKILL');
    await expect.poll(() => world.status(profile), { timeout: 15_000 }).toMatchObject({ nodes: [{ Host: 'Stopped' }] });
    await world.start(profile);
    expect(await world.ssh(profile, 'cat /data/kept && docker images -q box:1 | wc -l')).toBe('kept\n1');
  });

  test('a machine deleted behind minikube’s back is made anew', async () => {
    // What minikube itself keeps there remains.
    for (const pid of world.supervisors()) process.kill(pid, 'SIGKILL');
    for (const name of readdirSync(world.machineFolder(profile)).filter((entry) => entry !== 'config.json'))
      rmSync(join(world.machineFolder(profile), name));
    expect((await world.minikube('status', '-p', profile)).code).not.toBe(0);
    const said = await world.start(profile);
    expect(said).toContain('is missing, will recreate');
    expect(await world.ssh(profile, 'ls /data')).toBe('');
  });

  test('so is one that tshyve has removed', async () => {
    expect((await world.tshyve('rm', '-f', profile)).code).toBe(0);
    await world.start(profile);
    expect(await world.ssh(profile, 'hostname')).toBe(profile);
  });

  test('delete leaves nothing', async () => {
    await world.ok('delete', '-p', profile);
    await world.expectNothingLeft();
  });
});
