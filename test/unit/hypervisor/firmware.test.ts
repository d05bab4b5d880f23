import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, expect, test } from 'vitest';

import { type Extras, selectHypervisor } from '../../../driver/hypervisor/index.js';
import { nativeSpec } from '../../../driver/hypervisor/native/spec.js';
import { qemuArguments } from '../../../driver/hypervisor/qemu/arguments.js';
import { findFirmware, firmwareMissing, prepareFirmware } from '../../../driver/hypervisor/qemu/firmware.js';
import { Bench } from './bench.js';

const folder = mkdtempSync(join(tmpdir(), 'tsf-'));
const bench = new Bench('qemu');
afterAll(async () => {
  await bench.close();
  rmSync(folder, { recursive: true });
});
const disk = (id: string) => ({ id, path: `/${id}`, readOnly: false });
const spec = { ...bench.spec('/k'), disks: [disk('data'), disk('image')], firmware: { variableStore: '/v' } };

/** A QEMU of Homebrew's, and no firmware of the system's. */
const brewed = { path: join(folder, 'bin/qemu-system-aarch64'), architecture: 'aarch64' } as const;

test('QEMU boots firmware from flash, and the image first', () => {
  const firmware = { code: '/code,1.fd', variables: '/v' };
  const args = qemuArguments(spec, 'kvm', { qmp: '/q', frames: '/f' }, { architecture: 'x86_64', firmware });
  const all = args.join(' ');
  expect(all).toContain('hpet=off,pflash0=firmware,pflash1=variables');
  expect(all).toContain('"node-name":"firmware","read-only":true,"file":{"driver":"file","filename":"/code,1.fd"');
  expect(all).toContain('"node-name":"variables","read-only":false');
  expect(all).not.toContain('-kernel');
  expect(all).not.toContain('-append');
  const order = [...all.matchAll(/"serial":"(\w+)","id":"[\w-]+","bootindex":(\d)/g)].map(
    ([, id, at]) => `${id ?? ''} ${at ?? ''}`,
  );
  expect(order).toEqual(['data 2', 'image 1']);
  const plain = qemuArguments(spec, 'kvm', { qmp: '/q', frames: '/f' }, { architecture: 'x86_64' }).join(' ');
  expect(plain).toContain('-kernel /k');
  expect(plain).not.toMatch(/pflash|bootindex/);
});

const none = join(folder, 'none');

test('a machine has variables of its own, which stay', async () => {
  const bare = { ...brewed, path: '/none/bin/qemu' };
  expect(await findFirmware(bare, none)).toBeUndefined();
  await expect(prepareFirmware(bare, { variableStore: '/v' }, none)).rejects.toThrow(firmwareMissing('aarch64'));
  const share = join(folder, 'share/qemu');
  mkdirSync(share, { recursive: true });
  writeFileSync(join(share, 'edk2-aarch64-code.fd'), 'code');
  writeFileSync(join(share, 'edk2-arm-vars.fd'), 'fresh', { mode: 0o444 });
  const variableStore = join(folder, 'efi-variables.img');
  const expected = { code: join(share, 'edk2-aarch64-code.fd'), variables: variableStore };
  expect(await prepareFirmware(brewed, { variableStore }, none)).toEqual(expected);
  expect(readFileSync(variableStore, 'utf8')).toBe('fresh');
  expect(statSync(variableStore).mode & 0o777).toBe(0o600);
  writeFileSync(variableStore, 'changed');
  expect(await prepareFirmware(brewed, { variableStore }, none)).toEqual(expected);
  expect(readFileSync(variableStore, 'utf8')).toBe('changed');
});

test('the native core is given the variables; on Linux it says that it has no firmware', async () => {
  expect(nativeSpec(spec, '/f')).toMatchObject({ efi: { variableStore: '/v' } });
  const extras: Extras = {
    shares: false,
    rosetta: false,
    nestedVirtualization: false,
    bridged: false,
    firmware: true,
    vsock: false,
  };
  expect(await (await selectHypervisor('native')).lacks(extras)).toEqual([
    'The native core boots kernels, not firmware, on Linux: use --tshyve-hypervisor qemu.',
  ]);
});
