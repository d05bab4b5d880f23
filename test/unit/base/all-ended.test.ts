import { expect, test } from 'vitest';

import { allEnded } from '../../../driver/base/index.js';

test('gives all results in order', async () => {
  expect(await allEnded([Promise.resolve(1), 'two', Promise.resolve(true)])).toEqual([1, 'two', true]);
});

test('throws the first failure after the last has ended', async () => {
  let slowEnded = false;
  const slow = new Promise<void>((resolve) => {
    setTimeout(() => {
      slowEnded = true;
      resolve();
    }, 20);
  });
  await expect(allEnded([slow, Promise.reject(new Error('no space'))])).rejects.toThrow('no space');
  expect(slowEnded).toBe(true);
});
