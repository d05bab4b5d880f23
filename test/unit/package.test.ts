import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const root = resolve(import.meta.dirname, '../..');
const missing = ['dist/main.cjs', 'prebuilds/linux-x64/tshyve.glibc.node'].filter(
  (path) => !existsSync(join(root, path)),
);
if (missing.length > 0) console.warn(`The test of the package needs ${missing.join(', ')}: run scripts/test.sh`);

/** What npm would publish, unpacked where nothing else of this checkout is. */
describe.skipIf(missing.length > 0 && process.env['CI'] !== 'true')('the npm package', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tsp-'));
  const inside = join(folder, 'package');
  const tshyve = (...args: string[]) =>
    execFileSync(process.execPath, [join(inside, 'dist/tshyve.cjs'), ...args], { encoding: 'utf8', stdio: 'pipe' });

  beforeAll(() => {
    execFileSync('npm', ['pack', '--ignore-scripts', '--pack-destination', folder], { cwd: root, stdio: 'pipe' });
    const [archive = ''] = readdirSync(folder);
    execFileSync('tar', ['-xzf', join(folder, archive), '-C', folder]);
  });
  afterAll(() => {
    rmSync(folder, { recursive: true, force: true });
  });

  test('runs without installing anything', () => {
    expect(tshyve('--version').trim()).toMatch(/^\d+\.\d+\.\d+$/);
  });

  test('ends quietly when its reader has enough', () => {
    const script = join(inside, 'dist/tshyve.cjs');
    const result = spawnSync('sh', ['-c', `"$0" "$1" doctor | head -1`, process.execPath, script], {
      encoding: 'utf8',
    });
    expect(result.stdout).toMatch(/^\S+ +hypervisor/);
    expect(result.stderr).not.toContain('EPIPE');
  });

  test('installed globally, it puts a driver that works on the PATH', async () => {
    const prefix = join(folder, 'prefix');
    const [archive = ''] = readdirSync(folder).filter((name) => name.endsWith('.tgz'));
    const options = ['--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund', '--loglevel=error'];
    execFileSync('npm', ['install', '--global', '--prefix', prefix, ...options, join(folder, archive)], {
      stdio: 'pipe',
    });
    const program = (name: string) => join(prefix, 'bin', name);
    expect(readdirSync(join(prefix, 'bin')).sort()).toEqual(['docker-machine-driver-tshyve', 'tshyve', 'tshyve-vmm']);
    const plugin = spawn(program('docker-machine-driver-tshyve'), {
      env: { ...process.env, MACHINE_PLUGIN_TOKEN: '42', MACHINE_PLUGIN_DRIVER_NAME: 'tshyve' },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [line] = (await once(plugin.stdout, 'data')) as [Buffer];
    plugin.kill('SIGKILL');
    expect(line.toString()).toMatch(/^127\.0\.0\.1:\d+\n$/);
    for (const name of ['tshyve', 'tshyve-vmm']) {
      expect(execFileSync(program(name), ['--help'], { encoding: 'utf8' })).toContain(name);
    }
  }, 120_000);

  test('brings the native core, and what it takes to build it again', () => {
    let doctor: string;
    try {
      doctor = tshyve('doctor');
    } catch (error) {
      // Exit code 7 where neither hypervisor is usable.
      doctor = (error as { stdout: string }).stdout;
    }
    expect(doctor).toMatch(/^(ok|no|FAIL) +hypervisor native \d/m);
    for (const path of ['scripts/build-native.mjs', 'native/CMakeLists.txt', 'native/src/napi/addon.cc']) {
      expect(existsSync(join(inside, path)), path).toBe(true);
    }
    expect(readdirSync(join(inside, 'native/src/machine')).filter((name) => name.endsWith('_test.cc'))).toEqual([]);
  });
});
