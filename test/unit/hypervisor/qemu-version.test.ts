import { expect, test } from 'vitest';

import { versionFinding } from '../../../driver/hypervisor/qemu/binary.js';

test.each(['6.2.0', '6.2', '7.2.19', '10.1.2'])('QEMU %s is new enough', (version) => {
  expect(versionFinding(version)).toBeUndefined();
});

test.each(['6.1.99', '5.2', '2.12.0'])('QEMU %s is too old, says the manifest', (version) => {
  expect(versionFinding(version)).toBe(`QEMU ${version} is too old: 6.2.0 or newer is needed. Upgrade it.`);
});
