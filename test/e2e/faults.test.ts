import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { type Server as HttpsServer, createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, type Server, createServer } from 'node:net';
import { join } from 'node:path';

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';

import { sleep } from '../../driver/base/index.js';
import { World, cannotRun, image } from './world.js';

/** Debian's place of libfaketime, which lends programs another clock. */
const fakeTime = '/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1';

describe.skipIf(cannotRun)('faults', () => {
  const world = new World();
  afterAll(() => world.close());
  const create = (...flags: string[]) =>
    world.machine('create', '-d', 'tshyve', '--tshyve-memory', '512', ...flags, 'f');

  test('a truncated image is refused and leaves nothing', async () => {
    const truncated = join(world.folder, 'truncated.iso');
    writeFileSync(truncated, readFileSync(image).subarray(0, 50_000_000));
    const result = await create('--tshyve-image-url', `file://${truncated}`);
    expect(result.code).not.toBe(0);
    expect(result.err).toContain('cut short');
    rmSync(truncated);
    await world.machine('rm', '-f', '-y', 'f');
    await world.expectGone('f');
  });

  test('a wrong checksum is refused with both sums and leaves nothing', async () => {
    const result = await create('--tshyve-image-sha256', 'f'.repeat(64));
    expect(result.code).not.toBe(0);
    expect(result.err).toMatch(/has the SHA-256 checksum [0-9a-f]{64}, but f{64} was asked for/);
    await world.machine('rm', '-f', '-y', 'f');
    await world.expectGone('f');
  });

  test.skipIf(process.getuid?.() !== 0 && process.env['CI'] !== 'true')(
    'a full disk is named and leaves nothing',
    async () => {
      mkdirSync(world.store, { recursive: true });
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=60m', 'tshyve-test', world.store]);
      try {
        const result = await create();
        expect(result.code).not.toBe(0);
        expect(result.err).toContain('the disk is full');
        await world.machine('rm', '-f', '-y', 'f');
        await world.expectGone('f');
      } finally {
        execFileSync('umount', [world.store]);
      }
    },
  );

  test('a port that the user insists on and somebody else has is named, and nothing is left', async () => {
    const taken: Server = createServer().listen(0, '0.0.0.0');
    await once(taken, 'listening');
    const { port } = taken.address() as AddressInfo;
    try {
      const result = await create('--tshyve-ssh-port', String(port));
      expect(result.code).not.toBe(0);
      expect(result.err).toMatch(new RegExp(`Cannot forward 127\\.[0-9.]+:${String(port)} .* taken`));
    } finally {
      taken.close();
    }
    await world.machine('rm', '-f', '-y', 'f');
    await world.expectGone('f');
  });

  test('a taken Docker port is moved away from', async () => {
    const taken: Server = createServer().listen(2376, '0.0.0.0');
    await once(taken, 'listening');
    try {
      expect(await create()).toMatchObject({ code: 0 });
      const url = await world.ok('url', 'f');
      expect(url).toMatch(/^tcp:\/\/127\.\d+\.\d+\.\d+:\d+$/);
      expect(url).not.toMatch(/:2376$/);
      expect(await world.ok('ls')).toContain('v20.10');
    } finally {
      taken.close();
    }
  });

  test('a guest whose clock is wrong, and a host whose clock jumps, are put right by start', async () => {
    const guestOffset = async () => {
      const now = Number(await world.tshyveOk('ssh', 'f', 'date -u +%s'));
      return Math.abs(now - Date.now() / 1000);
    };
    await world.tshyveOk('ssh', 'f', 'sudo date -u -s 2001-01-01');
    expect(await guestOffset()).toBeGreaterThan(86_400);
    expect((await world.tshyve(['start', 'f'])).err).toMatch(/clock was \d+ s behind and has been set/);
    expect(await guestOffset()).toBeLessThan(60);
    for (const jump of ['-400d', '+3d']) {
      // Everything of ours runs with the jumped clock; the machine keeps running meanwhile.
      const jumped = { LD_PRELOAD: fakeTime, FAKETIME: jump, FAKETIME_DONT_FAKE_MONOTONIC: '1' };
      const begun = performance.now();
      expect((await world.tshyve(['ls'], jumped)).out).toMatch(/^f +running +tcp:/m);
      expect(performance.now() - begun).toBeLessThan(2000);
      expect(await world.ok('status', 'f')).toBe('Running');
      expect((await world.tshyve(['start', 'f'], jumped)).code).toBe(0);
      expect(await guestOffset()).toBeGreaterThan(86_400);
      expect((await world.tshyve(['start', 'f'])).code).toBe(0);
      expect(await guestOffset()).toBeLessThan(60);
    }
    expect(await world.ok('ls')).toContain('v20.10');
  });

  test('a guest whose host has slept gets the right time by itself', async () => {
    await world.tshyveOk('ssh', 'f', 'sudo date -u -s 2001-01-01');
    // The supervisor takes the time that it missed for a sleep of the host.
    const { supervisorPid } = world.status();
    process.kill(supervisorPid, 'SIGSTOP');
    await sleep(16_000);
    process.kill(supervisorPid, 'SIGCONT');
    const log = () => readFileSync(join(world.machineFolder('f'), 'vmm.log'), 'utf8');
    await expect.poll(log, { timeout: 60_000 }).toMatch(/clock was \d+ s behind and has been set/);
    const now = Number(await world.tshyveOk('ssh', 'f', 'date -u +%s'));
    expect(Math.abs(now - Date.now() / 1000)).toBeLessThan(60);
  });

  test('a run folder, status or lock that is deleted comes back', async () => {
    const here = () => existsSync(join(world.runFolder)) && world.processes().length > 0;
    rmSync(world.runFolder, { recursive: true });
    await expect.poll(here, { timeout: 5000 }).toBe(true);
    await expect.poll(() => world.tshyveOk('status', 'f'), { timeout: 5000 }).toBe('running');
    rmSync(join(world.machineFolder('f'), 'vmm.lock'));
    await expect.poll(() => existsSync(join(world.machineFolder('f'), 'vmm.lock')), { timeout: 5000 }).toBe(true);
    await world.expectState('f', 'Running');
    await world.ok('stop', 'f');
    await world.expectState('f', 'Stopped');
  });

  describe('a stopped machine whose folder is half deleted', () => {
    const saved = join(world.folder, 'saved');
    const parts = () => [world.machineFolder('f'), world.addresses];
    beforeAll(() => {
      mkdirSync(saved);
      for (const [index, path] of parts().entries()) {
        execFileSync('cp', ['-a', '--sparse=always', path, join(saved, String(index))]);
      }
    });
    beforeEach(() => {
      for (const [index, path] of parts().entries()) {
        rmSync(path, { recursive: true, force: true });
        execFileSync('cp', ['-a', '--sparse=always', join(saved, String(index)), path]);
      }
    });
    afterEach(async () => {
      await world.machine('rm', '-f', '-y', 'f');
      await world.expectGone('f');
    });
    const lose = (...names: string[]) => {
      for (const name of names) rmSync(join(world.machineFolder('f'), name), { recursive: true });
    };

    test('without its image: start says what brings it back', async () => {
      lose('kernel', 'boot2docker.iso', 'vmm.lock');
      expect((await world.machine('start', 'f')).err).toContain('boot2docker.iso is missing');
      await world.expectState('f', 'Stopped');
    });

    test('without its disk: start names it', async () => {
      lose('disk.img');
      expect((await world.machine('start', 'f')).err).toMatch(/disk\.img.*(missing|does not exist)/);
      await world.expectState('f', 'Stopped');
    });

    test('without its SSH key: start names it', async () => {
      lose('id_ed25519');
      expect((await world.machine('start', 'f')).err).toMatch(/id_ed25519.*(missing|does not exist)/);
      await world.expectState('f', 'Stopped');
    });

    test('without tshyve.json, or with a damaged one: ls lives, start names it', async () => {
      lose('tshyve.json');
      expect(await world.ok('ls')).not.toMatch(/Running/);
      expect((await world.machine('start', 'f')).err).toContain('tshyve.json');
      writeFileSync(join(world.machineFolder('f'), 'tshyve.json'), '{"version":1');
      await world.expectState('f', 'Error');
      expect((await world.machine('start', 'f')).err).toContain('tshyve.json is not valid JSON');
    });

    test('without config.json, or with a damaged one: the others are still listed, rm -f cleans', async () => {
      lose('config.json');
      expect((await world.machine('ls')).code).toBe(0);
      expect((await world.tshyve(['ls'])).code).toBe(0);
      writeFileSync(join(world.machineFolder('f'), 'config.json'), '{"DriverName":"tshyve"');
      expect((await world.tshyve(['ls'])).out).toMatch(/^f +error .*config\.json is damaged/m);
      expect((await world.tshyve(['rm', '-f', 'f'])).code).toBe(0);
    });
  });

  test('a machine whose folder is deleted while it runs ends by itself', async () => {
    expect(await create()).toMatchObject({ code: 0 });
    const { vmPid } = world.status();
    expect(existsSync(`/proc/${String(vmPid)}`)).toBe(true);
    rmSync(world.machineFolder('f'), { recursive: true });
    await expect.poll(() => world.processes(), { timeout: 5000 }).toEqual([]);
    expect(await world.ok('ls', '-q')).toBe('');
    expect((await world.tshyve(['rm', '-f', 'f'])).code).toBe(0);
    await world.expectGone('f');
  });
});

describe.skipIf(cannotRun)('images from a server that misbehaves', () => {
  const world = new World();
  const certificate = join(world.folder, 'server.pem');
  const key = join(world.folder, 'server-key.pem');
  let server: HttpsServer;
  let base = '';
  beforeAll(async () => {
    const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
    const keyOptions = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '1'];
    execFileSync('openssl', ['req', '-x509', ...keyOptions, ...subject, '-keyout', key, '-out', certificate], {
      stdio: 'pipe',
    });
    server = createHttpsServer({ cert: readFileSync(certificate), key: readFileSync(key) }, (request, response) => {
      if (request.url === '/cut.iso') {
        response.writeHead(200, { 'content-length': '1000000' });
        response.write(Buffer.alloc(5000));
        setTimeout(() => response.destroy(), 100);
      } else if (request.url === '/page.iso') {
        response.end('<html>please log in</html>');
      } else {
        response.writeHead(404).end();
      }
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    base = `https://localhost:${String((server.address() as AddressInfo).port)}`;
  });
  afterAll(async () => {
    server.close();
    await world.close();
  });

  const create = (url: string, env: NodeJS.ProcessEnv = { NODE_EXTRA_CA_CERTS: certificate }) => {
    Object.assign(world.env, { NODE_EXTRA_CA_CERTS: undefined }, env);
    return world.machine('create', '-d', 'tshyve', '--tshyve-image-url', url, 'i');
  };
  afterEach(async () => {
    await world.machine('rm', '-f', '-y', 'i');
    await world.expectGone('i');
    const cache = join(world.folder, 'home/cache/images');
    expect(existsSync(cache) ? readdirSync(cache).filter((name) => name.endsWith('.iso')) : []).toEqual([]);
  });

  test.each([
    ['/missing.iso', 'answers 404'],
    ['/cut.iso', /ended early|other side closed|terminated/],
    ['/page.iso', 'is not an ISO 9660 image'],
  ])('%s', async (path, words) => {
    const result = await create(`${base}${path}`);
    expect(result.code).not.toBe(0);
    expect(result.err).toMatch(words);
  });

  test('a server whose certificate nobody vouches for is not trusted', async () => {
    const result = await create(`${base}/page.iso`, {});
    expect(result.code).not.toBe(0);
    expect(result.err).toMatch(/Cannot download .*self.signed certificate/);
  });

  test('a server that is not there', async () => {
    const nobody: Server = createServer().listen(0, '127.0.0.1');
    await once(nobody, 'listening');
    const { port } = nobody.address() as AddressInfo;
    nobody.close();
    expect((await create(`https://localhost:${String(port)}/x.iso`)).err).toMatch(/Cannot download .*ECONNREFUSED/);
  });

  test.each([
    ['file:///no/such.iso', '/no/such.iso does not exist'],
    ['ftp://localhost/x.iso', 'unknown scheme'],
    ['http://example.org/x.iso', 'not encrypted'],
    ['file://host/x.iso', 'three slashes'],
  ])('%s is refused before anything is made', async (url, words) => {
    expect((await create(url)).err).toContain(words);
    expect(existsSync(world.machineFolder('i'))).toBe(false);
  });
});
