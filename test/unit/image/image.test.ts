import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { type Server, createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

import { TshyveError, noLog } from '../../../driver/base/index.js';
import { IsoImage, extractBootFiles, parseImageSource, resolveImage } from '../../../driver/image/index.js';

let folder: string;
let iso: string;
let good: Buffer;
const operation = { log: noLog, signal: new AbortController().signal };

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tshyve-test-'));
  const tree = join(folder, 'tree');
  mkdirSync(join(tree, 'boot'), { recursive: true });
  const kernel = Buffer.alloc(4096);
  kernel.write('HdrS', 0x202);
  writeFileSync(join(tree, 'boot', 'bzimage'), kernel);
  writeFileSync(join(tree, 'boot', 'initrd.small'), Buffer.alloc(5000, 7));
  writeFileSync(join(tree, 'boot', 'cmdline'), 'console=ttyS0 quiet\n');
  iso = join(folder, 'good.iso');
  execFileSync('xorriso', ['-as', 'mkisofs', '-quiet', '-R', '-V', 'b2d-v1.2.3', '-o', iso, tree], { stdio: 'ignore' });
  good = readFileSync(iso);
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('ISO images', () => {
  test('kernel, initrd and command line are found', async () => {
    const files = await extractBootFiles(iso, join(folder, 'k'), join(folder, 'i'));
    expect(files).toEqual({ commandLine: 'console=ttyS0 quiet', needsIsoDisk: true, volumeId: 'b2d-v1.2.3' });
    expect(readFileSync(join(folder, 'i'))).toEqual(Buffer.alloc(5000, 7));
  });

  test.each([
    ['an empty file', () => Buffer.alloc(0), 'not an ISO 9660 image'],
    ['a text', () => Buffer.from('hello'.repeat(10_000)), 'not an ISO 9660 image'],
    ['a truncated image', () => good.subarray(0, good.length - 4096), 'cut short'],
  ])('%s is refused', async (_, bytes, words) => {
    const path = join(folder, 'bad.iso');
    writeFileSync(path, bytes());
    await expect(IsoImage.open(path)).rejects.toThrow(words);
  });

  test('an image without a kernel is refused by name', async () => {
    const empty = join(folder, 'empty.iso');
    mkdirSync(join(folder, 'nothing'), { recursive: true });
    writeFileSync(join(folder, 'nothing', 'readme'), 'no kernel here');
    execFileSync('xorriso', ['-as', 'mkisofs', '-quiet', '-o', empty, join(folder, 'nothing')], { stdio: 'ignore' });
    await expect(extractBootFiles(empty, join(folder, 'k2'), join(folder, 'i2'))).rejects.toThrow(
      'no kernel and initrd',
    );
    expect(readdirSync(folder)).not.toContain('k2');
  });

  test('2000 damaged images end in clean errors or are read', async () => {
    const path = join(folder, 'fuzz.iso');
    let state = 1;
    const random = (below: number) => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
      return (state >>> 8) % below;
    };
    let refused = 0;
    for (let round = 0; round < 2000; round++) {
      const bytes = Buffer.from(good.subarray(0, 200 * 2048));
      // Descriptors and directories lie at the beginning.
      for (let change = 0; change < 8; change++) bytes[16 * 2048 + random(20 * 2048)] = random(256);
      writeFileSync(path, bytes);
      try {
        const image = await IsoImage.open(path);
        try {
          await image.find('/boot/initrd.small');
        } finally {
          await image.close();
        }
      } catch (error) {
        refused++;
        expect(TshyveError.is(error, 'image'), String(error)).toBe(true);
      }
    }
    expect(refused).toBeGreaterThan(10);
  });
});

/** minikube's ISOs (deploy/iso/minikube-iso of minikube 1.38): one for x86 by isolinux, one for arm64 by GRUB. */
describe("minikube's ISO layout", () => {
  const kernelOf = { x64: Buffer.alloc(4096), arm64: Buffer.alloc(4096) };
  kernelOf.x64.write('HdrS', 0x202);
  kernelOf.arm64.write('ARM\x64', 56);

  test.each([
    ['x64', 'bzImage', 'Rock Ridge names', ['-R']],
    ['x64', 'bzImage', 'plain ISO names', []],
    ['arm64', 'bzimage', 'Rock Ridge names', ['-R', '-J']],
  ] as const)('%s, /boot/%s, %s', async (architecture, kernel, _names, options) => {
    const work = mkdtempSync(join(folder, 'minikube-'));
    mkdirSync(join(work, 'tree/boot'), { recursive: true });
    const initrd = Buffer.alloc(70_000, 9);
    writeFileSync(join(work, 'tree/boot', kernel), kernelOf[architecture]);
    writeFileSync(join(work, 'tree/boot/initrd'), initrd);
    const path = join(work, 'minikube.iso');
    const args = ['-as', 'mkisofs', '-quiet', ...options, '-V', 'minikube', '-o', path, join(work, 'tree')];
    execFileSync('xorriso', args, { stdio: 'ignore' });
    const files = await extractBootFiles(path, join(work, 'k'), join(work, 'i'), undefined, architecture);
    expect(files).toMatchObject({ needsIsoDisk: false });
    expect(files.commandLine).toMatch(architecture === 'arm64' ? /^console=ttyAMA0 / : /^console=ttyS0 /);
    expect(readFileSync(join(work, 'k'))).toEqual(kernelOf[architecture]);
    expect(readFileSync(join(work, 'i'))).toEqual(initrd);
    const other = architecture === 'x64' ? 'arm64' : 'x64';
    await expect(extractBootFiles(path, join(work, 'k2'), join(work, 'i2'), undefined, other)).rejects.toSatisfy(
      (error) => TshyveError.is(error, 'image'),
    );
    expect(readdirSync(work)).not.toContain('k2');
  });
});

describe('image urls', () => {
  test.each([
    ['ftp://host/x.iso', 'unknown scheme'],
    ['http://example.com/x.iso', 'not encrypted'],
    ['file://host/x.iso', 'three slashes'],
    ['nonsense', 'not a url'],
  ])('%s is refused', (text, words) => {
    expect(() => parseImageSource(text, '')).toThrow(words);
  });

  test('a file is checked where it lies', async () => {
    const source = parseImageSource(pathToFileURL(iso).href, sha256(good));
    expect(await resolveImage(source, join(folder, 'cache'), operation)).toEqual({
      path: iso,
      fileUrl: pathToFileURL(iso).href,
    });
    const wrong = parseImageSource(iso, 'f'.repeat(64));
    await expect(resolveImage(wrong, join(folder, 'cache'), operation)).rejects.toThrow('was asked for');
  });
});

describe('downloads', () => {
  let server: Server | undefined;
  afterEach(() => {
    server?.closeAllConnections();
    server?.close();
  });
  const requests: (string | undefined)[] = [];
  /** Serves the good image; cuts the first `cuts` answers in the middle. */
  async function serve(cuts: number, body = good): Promise<string> {
    requests.length = 0;
    server = createServer((request, response) => {
      requests.push(request.headers.range);
      const start = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
      const rest = body.subarray(start);
      response.writeHead(start > 0 ? 206 : 200, { 'content-length': rest.length });
      if (requests.length <= cuts) response.write(rest.subarray(0, rest.length / 2), () => response.destroy());
      else response.end(rest);
    });
    await new Promise<void>((resolve) => server?.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${String((server.address() as AddressInfo).port)}/image.iso`;
  }

  test('a cut download is resumed, checked and kept', async () => {
    const url = await serve(1);
    const cache = join(folder, 'cache-resume');
    const source = parseImageSource(url, sha256(good));
    await expect(resolveImage(source, cache, operation)).rejects.toSatisfy((error) => TshyveError.is(error, 'image'));
    const image = await resolveImage(source, cache, operation);
    expect(readFileSync(image.path)).toEqual(good);
    expect(requests[1]).toMatch(/^bytes=\d+-$/);
    await resolveImage(source, cache, operation);
    expect(requests).toHaveLength(2);
  });

  test('two at once share one download', async () => {
    const source = parseImageSource(await serve(0), '');
    const cache = join(folder, 'cache-shared');
    const [a, b] = await Promise.all([resolveImage(source, cache, operation), resolveImage(source, cache, operation)]);
    expect(a).toEqual(b);
    expect(requests).toHaveLength(1);
  });

  test('wrong bytes are refused and not resumed', async () => {
    const source = parseImageSource(await serve(0), 'f'.repeat(64));
    const cache = join(folder, 'cache-wrong');
    await expect(resolveImage(source, cache, operation)).rejects.toThrow('checksum');
    expect(readdirSync(cache)).toEqual([]);
  });

  test('a missing server is named', async () => {
    const source = parseImageSource('http://127.0.0.1:1/x.iso', '');
    await expect(resolveImage(source, join(folder, 'cache-none'), operation)).rejects.toThrow(
      'Cannot download http://127.0.0.1:1',
    );
  });
});

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
