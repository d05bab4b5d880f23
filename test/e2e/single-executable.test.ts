import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readlinkSync, realpathSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { World, cannotRun, image, inTheLab } from './world.js';

const root = resolve(import.meta.dirname, '../..');
const folder = mkdtempSync(join(tmpdir(), 'tsx-'));
let world: World;

/** The programs of this host without Node, its companions and whatever starts by it. */
function withoutNode(): string {
  const tools = join(folder, 'tools');
  mkdirSync(tools);
  for (const place of new Set((process.env['PATH'] ?? '').split(':').filter((path) => path.startsWith('/')))) {
    for (const name of listing(place).filter((name) => !/^(node|nodejs|npm|npx|corepack)$/.test(name))) {
      try {
        symlinkSync(join(place, name), join(tools, name));
      } catch {
        // An earlier folder of the PATH has it.
      }
    }
  }
  return tools;
}

function listing(place: string): string[] {
  try {
    return readdirSync(place);
  } catch {
    return [];
  }
}

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
    world.env['PATH'] = `${world.bin}:${withoutNode()}`;
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
