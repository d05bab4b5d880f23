import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { expect, test } from 'vitest';

import { parseShares, requireFolders, shareWords } from '../../../driver/machine/shares.js';

test.each([
  ['/work', '/work', '/work', false],
  ['/work:ro', '/work', '/work', true],
  ['/work:/src', '/work', '/src', false],
  ['/work:/src:ro', '/work', '/src', true],
  ['/ro:ro', '/ro', '/ro', true],
  ['/a/../b//c/', '/b/c', '/b/c', false],
  ['/Users/me/My Files', '/Users/me/My Files', '/Users/me/My Files', false],
  // What a Mac has there, and the guest has not.
  ['/home/alice/project', '/home/alice/project', '/home/alice/project', false],
  ['/etc:/home/docker/etc:ro', '/etc', '/home/docker/etc', true],
  ['/:/mnt/host', '/', '/mnt/host', false],
  ['/tmp/x', '/tmp/x', '/tmp/x', false],
])('%s', (text, directory, guestDirectory, readOnly) => {
  expect(parseShares([text])).toEqual([{ tag: 'share0', directory, guestDirectory, readOnly }]);
});

test.each([
  [['work'], /--tshyve-share is "work": "work" is no absolute path\. Write HOSTDIR\[:GUESTDIR\]\[:ro\]/],
  [[''], /no absolute path/],
  [['/a:b'], /"b" is no absolute path/],
  [['/a:rw'], /"rw" is no absolute path/],
  [['/a:/b:/c'], /colon/],
  [['/a:/b:ro:ro'], /colon/],
  [['/a\nb'], /control characters/],
  [[`/${'x'.repeat(512)}`], /more than 512 bytes/],
  [['/'], /needs its own \/; say with :GUESTDIR/],
  [['/usr/share'], /needs its own \/usr\/share/],
  [['/a:/etc'], /choose another GUESTDIR/],
  [['/a:/home/docker'], /needs its own/],
  [['/a:/var/lib/docker'], /needs its own/],
  [['/a:/mnt/data/x'], /needs its own/],
  [['/a:/b/../proc'], /needs its own \/proc/],
  [['/a:/x', '/b:/x/'], /two folders at \/x/],
  [Array.from({ length: 17 }, (_, index) => `/a:/x${String(index)}`), /17 times: at most 16/],
  [[`/a:/${'x'.repeat(500)}`, `/b:/${'y'.repeat(500)}`, '/c'], /too long together/],
])('%j is refused', (texts, message) => {
  expect(() => parseShares(texts)).toThrow(message);
});

test('the words survive a kernel command line and a shell', () => {
  const folders = [
    '/plain/a-b_c.d',
    '/with space',
    '/"quotes"',
    '/back\\slash',
    '/percent%20',
    '/ümläut',
    '/$HOME;`x`',
  ];
  const words = shareWords(parseShares(folders.map((folder, index) => `/x:${folder}${index === 1 ? ':ro' : ''}`)));
  expect(words[0]).toBe('tshyve.share=share0:rw:/plain/a-b_c.d');
  expect(words[1]).toBe('tshyve.share=share1:ro:/with\\0040space');
  for (const [index, word] of words.entries()) {
    expect(word).toMatch(/^[\x21\x23-\x7e]+$/);
    // As the guest's script reads it.
    const text = execFileSync('sh', ['-c', 'printf %b "${1##*:}"', 'sh', word], { encoding: 'utf8' });
    expect(text).toBe(folders[index]);
  }
});

test('what is shared has to be a folder', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'tss-'));
  writeFileSync(join(folder, 'file'), '');
  try {
    await requireFolders(parseShares([folder]));
    await expect(requireFolders(parseShares([`${folder}/none:/x`]))).rejects.toThrow(
      /none does not exist: make it, or/,
    );
    await expect(requireFolders(parseShares([`${folder}/file:/x`]))).rejects.toThrow(/file is no folder/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
