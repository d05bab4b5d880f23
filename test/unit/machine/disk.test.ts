import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { checkDiskImage, createDisk, importQcow2 } from '../../../driver/machine/disk.js';

let folder: string;
const { signal } = new AbortController();
const path = (name: string) => join(folder, name);
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tshyve-test-'));
  writeFileSync(path('good.raw'), Buffer.concat([Buffer.from('content'), Buffer.alloc(1024 * 1024 - 7)]));
  const qemuImg = (...args: string[]) => execFileSync('qemu-img', args, { cwd: folder, stdio: 'pipe' });
  qemuImg('convert', '-f', 'raw', '-O', 'qcow2', 'good.raw', 'good.qcow2');
  qemuImg('create', '-f', 'qcow2', '-b', path('good.raw'), '-F', 'raw', 'backed.qcow2');
  qemuImg('create', '-f', 'qcow2', '-o', `data_file=${path('data.raw')}`, 'external.qcow2', '1M');
  writeFileSync(path('damaged.qcow2'), readFileSync(path('good.qcow2')).subarray(0, 60));
  writeFileSync(path('odd.raw'), 'x');
  writeFileSync(path('empty.raw'), '');
});
afterAll(() => rmSync(folder, { recursive: true }));

test('a new disk is sparse, private, and never takes the place of another', async () => {
  await createDisk(path('new.img'), 1000, Buffer.from('head'));
  const status = statSync(path('new.img'));
  expect(status.size).toBe(1000 << 20);
  expect(status.blocks).toBeLessThan(100);
  expect(status.mode & 0o777).toBe(0o600);
  await expect(createDisk(path('new.img'), 1)).rejects.toThrow('new.img');
});

describe('images given as extra disks', () => {
  test.each([
    ['good.raw', 'raw'],
    ['good.qcow2', 'qcow2'],
  ])('%s is %s', async (name, format) => {
    expect(await checkDiskImage(path(name), signal)).toBe(format);
  });

  test.each([
    ['missing', 'does not exist'],
    ['odd.raw', 'multiple of 512'],
    ['empty.raw', 'multiple of 512'],
    ['.', 'neither a file'],
    ['backed.qcow2', 'needs the file'],
    ['external.qcow2', 'needs the file'],
    ['damaged.qcow2', 'damaged'],
  ])('%s is refused with the reason', async (name, words) => {
    await expect(checkDiskImage(path(name), signal)).rejects.toThrow(words);
  });

  test('a qcow2 image is imported as a raw disk and left alone', async () => {
    const before = readFileSync(path('good.qcow2'));
    await importQcow2(path('good.qcow2'), path('imported.img'), signal);
    expect(readFileSync(path('imported.img')).equals(readFileSync(path('good.raw')))).toBe(true);
    expect(statSync(path('imported.img')).mode & 0o777).toBe(0o600);
    expect(readFileSync(path('good.qcow2')).equals(before)).toBe(true);
  });

  test('a failed import leaves nothing', async () => {
    truncateSync(path('damaged.qcow2'), 50);
    await expect(importQcow2(path('damaged.qcow2'), path('failed.img'), signal)).rejects.toThrow('Cannot import');
    expect(readdirSync(folder).filter((name) => name.startsWith('failed'))).toEqual([]);
  });
});
