import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { type ServiceError, credentials } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { fromServiceError } from '../../driver/grpc/index.js';
import { MachineDriverClient, type Progress } from '../../driver/plugin/grpc/generated/machine_driver.js';

const root = resolve(import.meta.dirname, '../..');
const needed = [join(root, 'iso/out/tshyve-amd64.iso'), join(root, 'dist/main.cjs')];
const missing = needed.filter((path) => !existsSync(path));
if (missing.length > 0) console.warn(`gRPC tests need ${missing.join(', ')}: run scripts/test.sh`);

describe.skipIf(missing.length > 0 && process.env['CI'] !== 'true')('the machine driver over gRPC', () => {
  const world = mkdtempSync(join(tmpdir(), 'tsg-'));
  const socket = join(world, 'sockets', 'driver.sock');
  const storePath = join(world, 'store');
  const env = { ...process.env, TSHYVE_HOME: join(world, 'home'), TSHYVE_RUN_DIR: join(world, 'run') };
  const serve = () =>
    spawn(process.execPath, [join(root, 'dist/docker-machine-driver-tshyve.cjs'), '--grpc', `unix:${socket}`], {
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  let server: ChildProcess;
  let client: MachineDriverClient;

  beforeAll(async () => {
    server = serve();
    if (server.stdout !== null) await once(server.stdout, 'data');
    client = new MachineDriverClient(`unix:${socket}`, credentials.createInsecure());
  });
  afterAll(async () => {
    client.close();
    server.kill();
    if (server.exitCode === null) await once(server, 'exit');
    expect(readdirSync(join(world, 'sockets'))).toEqual([]);
    rmSync(world, { recursive: true });
  });

  function ask<T>(start: (callback: (error: ServiceError | null, answer: T) => void) => unknown): Promise<T> {
    return new Promise((settle, reject) => {
      start((error, answer) => {
        if (error === null) settle(answer);
        else reject(fromServiceError(error));
      });
    });
  }
  /** Collects a change's progress. */
  function follow(stream: ReturnType<MachineDriverClient['create']>): Promise<{ lines: string[]; configJson: string }> {
    const lines: string[] = [];
    let configJson = '';
    return new Promise((settle, reject) => {
      stream.on('data', ({ step }: Progress) => {
        if (step?.$case === 'line') lines.push(step.value);
        else if (step?.$case === 'done') configJson = step.value.configJson;
      });
      stream.on('error', (error: ServiceError) => {
        reject(fromServiceError(error));
      });
      stream.on('end', () => {
        settle({ lines, configJson });
      });
    });
  }

  test('only its user reaches the socket, and only one process serves there', async () => {
    expect(statSync(socket).mode & 0o777).toBe(0o600);
    const second = serve();
    let said = '';
    second.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
    await once(second, 'close');
    expect(second.exitCode).toBe(1);
    expect(said).toContain('Another process serves');
  });

  test('flags are listed and applied', async () => {
    const { flags } = await ask<{ flags: { name: string }[] }>((callback) => client.getCreateFlags({}, callback));
    expect(flags.map((flag) => flag.name)).toContain('tshyve-cpus');
    const machine = { storePath, machineName: 'g', configJson: '' };
    const { configJson } = await ask<{ configJson: string }>((callback) =>
      client.configure({ machine, flags: { 'tshyve-cpus': { value: { $case: 'intValue', value: 3n } } } }, callback),
    );
    expect(JSON.parse(configJson)).toMatchObject({ CPU: 3, MachineName: 'g' });
  });

  test('errors carry their kind', async () => {
    const machine = { storePath, machineName: 'none', configJson: '' };
    await expect(ask((callback) => client.getUrl(machine, callback))).rejects.toMatchObject({
      kind: 'not-running',
      message: 'Host is not running',
    });
    await expect(follow(client.start(machine))).rejects.toMatchObject({ kind: 'not-found' });
    await expect(ask((callback) => client.getState({ ...machine, storePath: 'x' }, callback))).rejects.toMatchObject({
      kind: 'usage',
    });
    await expect(follow(client.preCreateCheck({ ...machine, configJson: '{"CPU":0}' }))).rejects.toThrow(
      '--tshyve-cpus',
    );
  });

  test('a cancelled create leaves nothing', async () => {
    const stream = client.create({ storePath, machineName: 'c', configJson: '{"Memory":512}' });
    const ended = follow(stream).catch((error: unknown) => error);
    await new Promise((wake) => setTimeout(wake, 1500));
    stream.cancel();
    expect(await ended).toMatchObject({ kind: 'cancelled' });
    await expect.poll(() => existsSync(join(storePath, 'machines/c'))).toBe(false);
  });

  test('create streams progress; the machine answers; remove takes it away', async () => {
    const machine = { storePath, machineName: 'g', configJson: '{"Memory":512}' };
    const { lines, configJson } = await follow(client.create(machine));
    expect(lines).toContain('Waiting for SSH');
    const known = { ...machine, configJson };
    expect(await ask((callback) => client.getState(known, callback))).toEqual({ state: 'running' });
    const { ip } = await ask<{ ip: string }>((callback) => client.getIp(known, callback));
    expect(ip).toBe((JSON.parse(configJson) as { IPAddress: string }).IPAddress);
    expect(await ask((callback) => client.getSshHostname(known, callback))).toEqual({ hostname: ip });
    await follow(client.remove(known));
    expect(await ask((callback) => client.getState(known, callback))).toEqual({ state: 'none' });
  });
});
