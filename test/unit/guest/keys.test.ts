import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import ssh2 from 'ssh2';
import { expect, test } from 'vitest';

import { createKeyPair, diskSeed, shellQuote } from '../../../driver/guest/index.js';

test('2000 keys are read by ssh2, also those whose public part begins with zero', () => {
  let zeros = 0;
  for (let index = 0; index < 2000; index++) {
    const pair = createKeyPair();
    const parsed = ssh2.utils.parseKey(pair.privateKey);
    if (parsed instanceof Error) throw parsed;
    expect(parsed.getPublicSSH().toString('base64')).toBe(pair.publicKey.split(' ')[1]);
    // string "ssh-ed25519" (15 bytes), length (4 bytes), then the point
    if (parsed.getPublicSSH()[19] === 0) zeros++;
  }
  expect(zeros).toBeGreaterThan(0);
});

test('OpenSSH reads the key', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tshyve-test-'));
  try {
    const pair = createKeyPair('a comment');
    const path = join(folder, 'id');
    writeFileSync(path, pair.privateKey, { mode: 0o600 });
    expect(execFileSync('ssh-keygen', ['-y', '-f', path], { encoding: 'utf8' })).toBe(pair.publicKey);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('tar reads the seed, which old guests can hold', () => {
  const { publicKey } = createKeyPair();
  const seed = diskSeed(publicKey);
  expect(seed.length).toBeLessThanOrEqual(4096);
  const input = Buffer.concat([seed, Buffer.alloc(4096)]);
  const list = execFileSync('tar', ['-tvf', '-'], { input, encoding: 'utf8' });
  expect(list).toContain('boot2docker, please format-me');
  expect(list).toMatch(/drwx------.*\.ssh\//);
  expect(execFileSync('tar', ['-xOf', '-', '.ssh/authorized_keys'], { input, encoding: 'utf8' })).toBe(publicKey);
  expect(() => diskSeed('x'.repeat(2000))).toThrow(RangeError);
});

test.each(['plain', "it's", '$(reboot)', 'a\nb', '', '`x`', '\\', '*', '-n'])('a shell gives %j back', (word) => {
  expect(execFileSync('sh', ['-c', `printf %s ${shellQuote(word)}`], { encoding: 'utf8' })).toBe(word);
});
