import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { join } from 'node:path';

import { afterAll, describe, expect, test } from 'vitest';

import { World, cannotRun, inTheLab, within } from './world.js';

const world = cannotRun ? undefined : new World();
const { store, env } = world ?? { store: '', env: {} };
const machine = (...args: string[]) => requireWorld().machine(...args);
const ok = (...args: string[]) => requireWorld().ok(...args);

function requireWorld(): World {
  if (world === undefined) throw new Error('no world');
  return world;
}

/** One call of the machine's Docker API over TLS, with the client certificates that docker-machine made. */
function docker(method: string, path: string, body?: Buffer | object): Promise<{ status: number; text: string }> {
  const url = new URL(dockerUrl.replace('tcp:', 'https:'));
  const certificates = join(store, 'machines', 'm1');
  const payload = body === undefined || Buffer.isBuffer(body) ? body : Buffer.from(JSON.stringify(body));
  return new Promise((settle, reject) => {
    const call = request(
      {
        host: url.hostname,
        port: url.port,
        path,
        method,
        ca: readFileSync(join(certificates, 'ca.pem')),
        cert: readFileSync(join(certificates, 'cert.pem')),
        key: readFileSync(join(certificates, 'key.pem')),
        headers: {
          'content-type': Buffer.isBuffer(body) ? 'application/x-tar' : 'application/json',
          'content-length': payload?.length ?? 0,
        },
      },
      (response) => {
        let text = '';
        response.setEncoding('latin1');
        response.on('data', (chunk: string) => (text += chunk));
        response.on('end', () => {
          settle({ status: response.statusCode ?? 0, text });
        });
      },
    );
    call.on('error', reject);
    call.end(payload);
  });
}

let dockerUrl = '';

/** Runs a command in a container whose image is the guest's own busybox, with a volume; returns its output. */
async function runContainer(command: string): Promise<string> {
  const created = await docker('POST', '/v1.40/containers/create', {
    Image: 'box:1',
    Cmd: ['/bin/busybox', 'sh', '-c', command],
    HostConfig: { Binds: ['kept:/data'] },
  });
  expect(created.status, created.text).toBe(201);
  const { Id } = JSON.parse(created.text) as { Id: string };
  expect((await docker('POST', `/v1.40/containers/${Id}/start`)).status).toBe(204);
  await docker('POST', `/v1.40/containers/${Id}/wait`);
  const logs = await docker('GET', `/v1.40/containers/${Id}/logs?stdout=1&stderr=1`);
  await docker('DELETE', `/v1.40/containers/${Id}?force=1`);
  // Each piece of output has a header of 8 bytes.
  return logs.text.slice(8).trim();
}

describe.skipIf(cannotRun)('the unmodified docker-machine client', () => {
  afterAll(() => requireWorld().close());

  test('create --help shows our flags', async () => {
    expect(await ok('create', '-d', 'tshyve', '--help')).toContain('--tshyve-cpus');
  });

  test('bad flags fail before anything is made, with the fix', async () => {
    const result = await machine('create', '-d', 'tshyve', '--tshyve-cpus', '0', '--tshyve-network', 'x', 'bad');
    expect(result.code).toBe(3);
    expect(result.err).toContain('--tshyve-cpus is 0: give 1 to');
    expect(result.err).toContain('--tshyve-network');
    const missingImage = await machine('create', '-d', 'tshyve', '--tshyve-image-url', 'file:///no/such.iso', 'bad');
    expect(missingImage.err).toContain('/no/such.iso does not exist');
    expect(existsSync(join(store, 'machines', 'bad'))).toBe(false);
  });

  test('create gives a Docker host', async () => {
    const out = await ok(
      'create',
      '-d',
      'tshyve',
      '--tshyve-cpus',
      '2',
      '--tshyve-memory',
      '1024',
      '--tshyve-extra-disk',
      '64',
      'm1',
    );
    expect(out).toContain('Provisioning with boot2docker');
    expect(out).toContain('Docker is up and running!');
    dockerUrl = await ok('url', 'm1');
    expect(dockerUrl).toMatch(/^tcp:\/\/127\.\d+\.\d+\.\d+:2376$/);
  });

  test('ls, ip, status, inspect, env, config', async () => {
    expect(await ok('ls')).toMatch(/m1 +\S+ +tshyve +Running +tcp:\/\/\S+ +v20\.10/);
    expect(`tcp://${await ok('ip', 'm1')}:2376`).toBe(dockerUrl);
    expect(await ok('status', 'm1')).toBe('Running');
    expect(await ok('inspect', '-f', '{{.Driver.CPU}} {{.DriverName}} {{.Driver.Boot2DockerURL}}', 'm1')).toMatch(
      /^2 tshyve file:\/\//,
    );
    expect(await ok('env', 'm1')).toContain(`export DOCKER_HOST="${dockerUrl}"`);
    expect(await ok('config', 'm1')).toContain('--tlsverify');
  });

  test('ssh and scp both ways', async () => {
    expect(await ok('ssh', 'm1', 'uname -a')).toMatch(/^Linux m1 /);
    expect(await ok('ssh', 'm1', 'lsblk -bdno SIZE | sort -n | head -1')).toBe(String(64 << 20));
    const [there, back] = [join(requireWorld().folder, 'there'), join(requireWorld().folder, 'back')];
    writeFileSync(there, 'over the wire');
    await ok('scp', there, 'm1:/tmp/file');
    await ok('scp', 'm1:/tmp/file', back);
    expect(readFileSync(back, 'utf8')).toBe('over the wire');
  });

  test('a container runs through the Docker API over TLS', async () => {
    await ok(
      'ssh',
      'm1',
      'mkdir -p box/bin && cp /bin/busybox box/bin/ && ln -s busybox box/bin/cat && ln -s busybox box/bin/uname && for f in $(ldd /bin/busybox | grep -o "/lib[^ ]*"); do mkdir -p box$(dirname $f) && cp -L $f box$f; done && tar -C box -c . | docker import - box:1',
    );
    expect(await runContainer('echo kept > /data/file; uname -n; cat /data/file')).toContain('kept');
  });

  test.each([['stop'], ['kill']])('a volume survives %s and start', async (how) => {
    const address = await ok('ip', 'm1');
    await ok(how, 'm1');
    expect(await ok('status', 'm1')).toBe('Stopped');
    expect(await ok('ls')).toMatch(/m1 .* Stopped/);
    expect((await machine('url', 'm1')).err).toContain('Host is not running');
    await ok('start', 'm1');
    expect(await ok('ip', 'm1')).toBe(address);
    expect(await runContainer('cat /data/file')).toBe('kept');
  });

  test('a machine goes on after suspend and start', async () => {
    const booted = await ok('ssh', 'm1', 'echo here > /dev/shm/file; cat /proc/sys/kernel/random/boot_id');
    await requireWorld().tshyveOk('suspend', 'm1');
    expect(await ok('status', 'm1')).toBe('Saved');
    await ok('start', 'm1');
    expect(await ok('ssh', 'm1', 'cat /dev/shm/file /proc/sys/kernel/random/boot_id')).toBe(`here\n${booted}`);
  });

  if (!inTheLab) {
    test('restart, regenerate-certs, provision, upgrade', async () => {
      await ok('restart', 'm1');
      await ok('regenerate-certs', '-f', 'm1');
      await ok('provision', 'm1');
      expect(await ok('upgrade', 'm1')).not.toContain('rror');
      expect(await ok('status', 'm1')).toBe('Running');
      expect(await runContainer('cat /data/file')).toBe('kept');
    });

    test('a dead supervisor takes its machine along; ls tells the truth within 2 s; start heals', async () => {
      process.kill(supervisorPid(), 'SIGKILL');
      await expect.poll(() => requireWorld().processes(), { timeout: within(2000) }).toEqual([]);
      const begun = performance.now();
      expect(await ok('ls')).toMatch(/m1 .* Stopped/);
      expect(performance.now() - begun).toBeLessThan(within(2000));
      await ok('start', 'm1');
    });
  }

  test('a dead QEMU is noticed', async () => {
    const { vmPid, hypervisor } = status();
    if (hypervisor === 'native') {
      // The machine lives in its supervisor: the test above has killed both.
      expect(vmPid).toBe(0);
      return;
    }
    process.kill(vmPid, 'SIGKILL');
    await expect.poll(() => requireWorld().processes(), { timeout: within(2000) }).toEqual([]);
    expect(await ok('status', 'm1')).toBe('Stopped');
    expect(readFileSync(join(store, 'machines/m1/last-exit.json'), 'utf8')).toContain('crashed');
  });

  test('rm leaves no process and no file', async () => {
    await ok('rm', '-y', 'm1');
    // The client does not wait for its plugin.
    await expect.poll(() => requireWorld().processes(), { timeout: within(2000) }).toEqual([]);
    expect(readdirSync(join(store, 'machines'))).toEqual([]);
    expect(readdirSync(requireWorld().addresses)).toEqual([]);
  });

  test.each(inTheLab ? [] : [100, 400, 800, 1200, 1600, 2200, 3000, 4500, 7000, 10_000])(
    'a client killed after %i ms of create leaves nothing that rm does not clean',
    async (afterMs) => {
      const child: ChildProcess = spawn(
        requireWorld().client,
        ['-s', store, 'create', '-d', 'tshyve', '--tshyve-memory', '512', 'm2'],
        { env, stdio: 'ignore' },
      );
      await new Promise((wake) => setTimeout(wake, afterMs));
      child.kill('SIGKILL');
      const begun = performance.now();
      // The client's own patience with a Docker that is still starting (killed while provisioning) is 10 s.
      await machine('ls', '--timeout', '1');
      expect(performance.now() - begun).toBeLessThan(within(2000));
      if (existsSync(join(store, 'machines/m2'))) await machine('rm', '-f', '-y', 'm2');
      await expect.poll(() => requireWorld().processes(), { timeout: within(15_000) }).toEqual([]);
      expect(existsSync(join(store, 'machines/m2'))).toBe(false);
      expect(readdirSync(requireWorld().addresses)).toEqual([]);
    },
  );

  function status(): { vmPid: number; supervisorPid: number; hypervisor: string } {
    const [id] = readdirSync(requireWorld().runFolder).filter((name) => /^[0-9a-f]{16}$/.test(name));
    return JSON.parse(readFileSync(join(requireWorld().runFolder, id ?? '', 'status.json'), 'utf8')) as {
      vmPid: number;
      supervisorPid: number;
      hypervisor: string;
    };
  }
  function supervisorPid(): number {
    return status().supervisorPid;
  }
});
