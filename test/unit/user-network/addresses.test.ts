import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, expect, test } from 'vitest';

import { AddressBook } from '../../../driver/user-network/addresses.js';

let folder = '';
const path = () => join(folder, 'networks', 'lab.json');
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsu-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});
const mac = (number: number) =>
  `02:00:00:00:${(number >> 8).toString(16).padStart(2, '0')}:${(number & 255).toString(16).padStart(2, '0')}`;

test('a machine keeps its address, also when the book is opened again', async () => {
  const book = await AddressBook.open(path());
  expect(await book.claim(mac(1), new Set())).toBe('10.0.2.15');
  expect(await book.claim(mac(2), new Set([mac(1)]))).toBe('10.0.2.16');
  const again = await AddressBook.open(path());
  expect(await again.claim(mac(2), new Set())).toBe('10.0.2.16');
  expect(await again.claim(mac(1), new Set())).toBe('10.0.2.15');
  expect(await again.claim(mac(3), new Set())).toBe('10.0.2.17');
});

test('when all are given, the machine that is not here and came first loses its own', async () => {
  const book = await AddressBook.open(path());
  const all = Array.from({ length: 240 }, (_, index) => mac(index));
  for (const each of all) await book.claim(each, new Set());
  await expect(book.claim(mac(1000), new Set(all))).rejects.toThrow(/room for 240 machines/);
  expect(await book.claim(mac(1000), new Set([mac(0), mac(2)]))).toBe('10.0.2.16');
  expect(await book.claim(mac(0), new Set())).toBe('10.0.2.15');
});

test.each(['', '{', '[]', '{"version":2,"addresses":{}}', '{"version":1,"addresses":{"02:00:00:00:00:01":"8.8.8.8"}}'])(
  'a damaged book (%s) is begun anew',
  async (text) => {
    const first = await AddressBook.open(path());
    await first.claim(mac(1), new Set());
    writeFileSync(path(), text);
    const book = await AddressBook.open(path());
    expect(await book.claim(mac(9), new Set())).toBe('10.0.2.15');
    expect(JSON.parse(readFileSync(path(), 'utf8'))).toEqual({ version: 1, addresses: { [mac(9)]: '10.0.2.15' } });
  },
);
