import { expect, test } from 'vitest';

import { parseNetworkChoice } from '../../../driver/machine/network-choice.js';

test.each([
  ['user', { mode: 'user' }],
  ['shared', { mode: 'shared', network: 'shared' }],
  ['shared:lab-2', { mode: 'shared', network: 'lab-2' }],
])('%s', (text, expected) => {
  expect(parseNetworkChoice(text)).toEqual(expected);
});

test.each(['', 'bridged', 'shared:', 'shared:../x', 'shared:UP', 'User'])('%j is refused with the choices', (text) => {
  expect(() => parseNetworkChoice(text)).toThrow('--tshyve-network is "' + text + '": give user, shared');
});
