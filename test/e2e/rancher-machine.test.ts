import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, readFileSync, readdirSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';

import { afterAll, describe, expect, test } from 'vitest';

import { GobDecoder, GobEncoder, type GobSchema } from '../../driver/plugin/gob/index.js';
import { emptyStruct, emptyValue } from '../../driver/plugin/netrpc/index.js';
import { plain } from '../unit/plugin/recorded.js';
import { World, cannotRun, clientPath } from './world.js';

/**
 * rancher-machine is docker-machine's fork. What it does differently towards a plugin is tested with the plugin alone;
 * where its binary was built (test/conformance/build.sh --rancher-machine), the whole of it is driven too.
 */
const rancherMachine = clientPath('rancher-machine');

const requestSchema: GobSchema = {
  kind: 'struct',
  name: 'Request',
  fields: [
    ['ServiceMethod', 'string'],
    ['Seq', 'uint'],
  ],
};

/** Starts the plugin as rancher-machine does, with its own whole command line as arguments, and makes calls. */
async function callPlugin(world: World, methods: readonly string[], user?: number): Promise<unknown[]> {
  const child = spawn(
    join(world.bin, 'docker-machine-driver-tshyve'),
    ['rancher-machine', '--debug', 'create', '-d', 'tshyve', '--grpc', 'unix:/x', 'version', 'm'],
    {
      env: { ...world.env, MACHINE_PLUGIN_TOKEN: '42', MACHINE_PLUGIN_DRIVER_NAME: 'tshyve' },
      stdio: ['ignore', 'pipe', 'inherit'],
      ...(user === undefined ? {} : { uid: user, gid: user }),
    },
  );
  try {
    const [line] = (await once(child.stdout, 'data')) as [Buffer];
    const address = /^127\.0\.0\.1:(\d+)\n$/.exec(line.toString());
    expect(address).not.toBeNull();
    const socket = connect(Number(address?.[1]), '127.0.0.1');
    socket.write('CONNECT /_goRPC_ HTTP/1.0\n\n');
    const [hello] = (await once(socket, 'data')) as [Buffer];
    expect(hello.toString()).toMatch(/^HTTP\/1.0 200 /);
    const encoder = new GobEncoder();
    const decoder = new GobDecoder();
    const answers: unknown[] = [];
    for (const [index, method] of methods.entries()) {
      const header = new Map([
        ['ServiceMethod', { kind: 'string', value: Buffer.from(`RPCServerDriver.${method}`) }],
        ['Seq', { kind: 'uint', value: BigInt(index) }],
      ] as const);
      socket.write(encoder.encode(requestSchema, { kind: 'struct', fields: header }));
      socket.write(encoder.encode(emptyStruct, emptyValue));
      for (let part = 0; part < 2;) {
        const decoded = decoder.next();
        if (decoded === undefined) decoder.push(((await once(socket, 'data')) as [Buffer])[0]);
        else if (part++ === 0) answers.push((plain(decoded.value) as { Error?: string }).Error ?? plain(decoded.value));
      }
    }
    socket.destroy();
    const [code] = (await once(child, 'exit')) as [number | null];
    expect(code).toBe(0);
    return answers;
  } finally {
    child.kill('SIGKILL');
  }
}

describe.skipIf(cannotRun)('as rancher-machine calls the plugin', () => {
  const world = new World();
  afterAll(() => world.close());

  test("its command line in the plugin's arguments means nothing; GetIPv6 is known", async () => {
    const answers = await callPlugin(world, ['GetIPv6', 'GetVersion', 'NoSuchMethod']);
    expect(answers[0]).toBe('IPv6 address is not set');
    expect(answers[1]).toMatchObject({ Seq: 1 });
    expect(answers[2]).toContain("can't find method");
  });

  test.runIf(process.getuid?.() === 0)('it serves under the user that MACHINE_PLUGIN_UID names', async () => {
    chmodSync(world.folder, 0o755);
    expect(await callPlugin(world, ['GetVersion'], 65_534)).toHaveLength(1);
  });
});

// Not skipped but left out where the binary is missing: its module cannot be had everywhere.
if (existsSync(rancherMachine) && !cannotRun) {
  describe('the unmodified rancher-machine client', () => {
    const world = new World(rancherMachine);
    afterAll(() => world.close());
    const ok = (...args: string[]) => world.ok(...args);

    test('create, and everything that asks', async () => {
      expect(await ok('create', '-d', 'tshyve', '--help')).toContain('--tshyve-cpus');
      await ok('create', '-d', 'tshyve', '--tshyve-memory', '600', 'r');
      expect(await ok('ls')).toMatch(/^r +\S+ +tshyve +Running +tcp:\/\/127\./m);
      const ip = await ok('ip', 'r');
      expect(ip).toMatch(/^127(\.\d+){3}$/);
      expect(await ok('url', 'r')).toBe(`tcp://${ip}:2376`);
      expect(await ok('status', 'r')).toContain('Running');
      expect(await ok('ssh', 'r', 'uname -n')).toBe('r');
      expect(await ok('env', 'r')).toContain(`DOCKER_HOST="tcp://${ip}:2376"`);
      expect(await ok('inspect', '-f', '{{.DriverName}}', 'r')).toBe('tshyve');
    });

    test('stop, start, restart, provision, upgrade', async () => {
      await ok('stop', 'r');
      expect(await ok('status', 'r')).toContain('Stopped');
      await ok('start', 'r');
      await ok('restart', 'r');
      await ok('provision', 'r');
      await ok('upgrade', 'r');
      expect(await ok('ls')).toContain('Running');
    });

    test('--update-config keeps the config', async () => {
      const config = () => readFileSync(join(world.machineFolder('r'), 'config.json'), 'utf8');
      const before = JSON.parse(config()) as { Driver: unknown };
      await ok('status', '--update-config', 'r');
      await ok('url', '--update-config', 'r');
      expect((JSON.parse(config()) as { Driver: unknown }).Driver).toEqual(before.Driver);
    });

    test('a machine whose record is gone, and rm', async () => {
      await ok('rm', '-y', 'r');
      await world.expectGone('r');
      expect(readdirSync(join(world.store, 'machines'))).toEqual([]);
      mkdirSync(world.machineFolder('r'));
      expect((await world.machine('status', 'r')).code).not.toBe(0);
    });
  });
}
