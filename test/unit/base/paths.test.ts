import { chmod, lstat, mkdir, mkdtemp, rm, stat, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, test } from 'vitest';

import { checkSocketPath, hasRunRoot, makeRunDirectory, runRoot } from '../../../driver/base/index.js';

let folder: string;
const before = process.env['TSHYVE_RUN_DIR'];
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tshyve-test-'));
  process.env['TSHYVE_RUN_DIR'] = join(folder, 'run');
});
afterEach(async () => {
  if (before === undefined) delete process.env['TSHYVE_RUN_DIR'];
  else process.env['TSHYVE_RUN_DIR'] = before;
  await rm(folder, { recursive: true });
});

test('the place of the run folder follows the environment', () => {
  expect(runRoot({ TSHYVE_RUN_DIR: '/a', XDG_RUNTIME_DIR: '/b' })).toBe('/a');
  expect(runRoot({ XDG_RUNTIME_DIR: '/b' })).toBe(process.platform === 'linux' ? '/b/tshyve' : runRoot({}));
  expect(runRoot({ TSHYVE_RUN_DIR: '' })).toMatch(/\/tshyve-\d+$/);
});

test('a socket path that the kernel would cut off is refused', () => {
  expect(checkSocketPath(`/${'a'.repeat(102)}`)).toHaveLength(103);
  expect(() => checkSocketPath(`/${'a'.repeat(103)}`)).toThrow('Set TSHYVE_RUN_DIR');
});

describe('the run folder is believed only when nobody else can have filled it', () => {
  test('it is made private, with what is in it', async () => {
    expect(await hasRunRoot()).toBe(false);
    await makeRunDirectory('0123456789abcdef');
    expect(await hasRunRoot()).toBe(true);
    for (const path of [join(folder, 'run'), join(folder, 'run/0123456789abcdef')]) {
      expect((await stat(path)).mode & 0o777).toBe(0o700);
    }
  });

  test('a link planted in its place is refused and not followed', async () => {
    await mkdir(join(folder, 'elsewhere'));
    await symlink(join(folder, 'elsewhere'), join(folder, 'run'));
    await expect(hasRunRoot()).rejects.toThrow('TSHYVE_RUN_DIR');
    await expect(makeRunDirectory('x')).rejects.toThrow('TSHYVE_RUN_DIR');
    await expect(lstat(join(folder, 'elsewhere/x'))).rejects.toThrow('ENOENT');
  });

  test('one that others may write to is refused', async () => {
    await mkdir(join(folder, 'run'));
    await chmod(join(folder, 'run'), 0o777);
    await expect(hasRunRoot()).rejects.toThrow('only the current user');
  });

  // Only root can make a folder of somebody else's; root has read access to it all the same, which must not help.
  test.runIf(process.getuid?.() === 0)("somebody else's is refused", async () => {
    const { chown } = await import('node:fs/promises');
    await mkdir(join(folder, 'run'), { mode: 0o700 });
    await chown(join(folder, 'run'), 12_345, 12_345);
    await expect(hasRunRoot()).rejects.toThrow('only the current user');
    await expect(makeRunDirectory('x')).rejects.toThrow('only the current user');
  });
});
