import { expect, test } from 'vitest';

import type { Hypervisor, HypervisorName } from '../../../driver/hypervisor/index.js';
import { preferNative } from '../../../driver/hypervisor/prefer-native.js';

function backend(name: HypervisorName, usable: boolean): Hypervisor {
  const notes = usable ? [] : [`${name} is not there.`];
  return {
    name,
    probe: () => Promise.resolve({ hypervisor: name, usable, notes }),
    lacks: () => Promise.resolve([]),
    launch: () => Promise.reject(new Error('not asked for')),
  };
}

test.each<[NodeJS.Platform, boolean, boolean, HypervisorName]>([
  ['linux', true, true, 'native'],
  ['linux', false, true, 'qemu'],
  ['linux', false, false, 'qemu'],
  ['darwin', true, true, 'native'],
  ['darwin', false, true, 'qemu'],
  // Its probe says that the entitlement is missing; that QEMU is missing would be beside the point.
  ['darwin', false, false, 'native'],
])('on %s with a native core %s and QEMU %s', async (platform, native, qemu, expected) => {
  const choice = await preferNative(backend('native', native), () => Promise.resolve(backend('qemu', qemu)), platform);
  expect(choice.hypervisor.name).toBe(expected);
  expect(choice.notes).toEqual(native ? [] : ['native is not there.']);
});
