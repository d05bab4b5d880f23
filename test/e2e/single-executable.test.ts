import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readlinkSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { World, cannotRun, image, inTheLab } from './world.js';

const root = resolve(import.meta.dirname, '../..');
const folder = mkdtempSync(join(tmpdir(), 'tsx-'));
const hasRuby = spawnSync('ruby', ['--version']).status === 0;
let world: World;

describe.skipIf(cannotRun || inTheLab)('the single executable, on a host without Node', () => {
  beforeAll(() => {
    execFileSync(process.execPath, [join(root, 'scripts/package.mjs'), '--out', folder, '--without-image'], {
      stdio: 'pipe',
    });
    const [archive = ''] = readdirSync(folder).filter((name) => name.endsWith('.tar.gz'));
    const installed = join(folder, 'installed');
    mkdirSync(installed);
    execFileSync('tar', ['-C', installed, '-xzf', join(folder, archive)]);
    world = new World(undefined, join(installed, archive.replace(/\.tar\.gz$/, ''), 'bin'));
    world.env['TSHYVE_IMAGE_URL'] = `file://${image}`;
  });
  afterAll(async () => {
    await world.close();
    rmSync(folder, { recursive: true, force: true });
  });

  test('shows its help, its completion and what it thinks of this host', async () => {
    expect((await world.tshyve(['--help'])).out).toContain('Usage: tshyve');
    expect((await world.tshyve(['completion', 'bash'])).out).toContain('complete');
    expect((await world.tshyve(['doctor'])).out).toContain('hypervisor qemu');
  });

  test.skipIf(!hasRuby && process.env['CI'] !== 'true')('is installed by its Homebrew formula', async () => {
    const [archive = ''] = readdirSync(folder).filter((name) => name.endsWith('.tar.gz'));
    const formula = join(folder, 'tshyve.rb');
    const url = ['--url', 'https://example.org/v1', '--out', formula];
    const write = (...archives: string[]) =>
      execFileSync(process.execPath, [join(root, 'scripts/formula.mjs'), ...url, ...archives], { stdio: 'pipe' });
    expect(() => write(formula)).toThrow('is no archive of a release');
    write(join(folder, archive));
    expect(execFileSync('ruby', ['-c', formula], { encoding: 'utf8' })).toBe('Syntax OK\n');
    const prefix = join(folder, 'homebrew');
    const brew = [join(root, 'test/e2e/homebrew.rb'), formula, folder, prefix];
    execFileSync('ruby', brew, { env: world.env, stdio: 'pipe' });
    const plugin = spawn(join(prefix, 'bin/docker-machine-driver-tshyve'), {
      env: { ...world.env, MACHINE_PLUGIN_TOKEN: '42', MACHINE_PLUGIN_DRIVER_NAME: 'tshyve' },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [line] = (await once(plugin.stdout, 'data')) as [Buffer];
    plugin.kill('SIGKILL');
    expect(line.toString()).toMatch(/^127\.0\.0\.1:\d+\n$/);
  });

  test('drives a machine for docker-machine; its supervisor is the same executable', async () => {
    await world.ok('create', '-d', 'tshyve', '--tshyve-memory', '512', 'box');
    expect(await world.ok('ssh', 'box', 'echo $((6 * 7))')).toBe('42');
    const { supervisorPid } = world.status();
    expect(readlinkSync(`/proc/${String(supervisorPid)}/exe`)).toBe(realpathSync(join(world.bin, 'tshyve')));
    await world.expectState('box', 'Running');
    await world.ok('stop', 'box');
    await world.ok('rm', '-y', 'box');
    await world.expectGone('box');
  });
});
