import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

import { afterAll, expect, test } from 'vitest';

import { certificatePaths, waitForDocker } from '../../driver/guest/index.js';
import { findQemu } from '../../driver/hypervisor/qemu/binary.js';
import { findFirmware, firmwareMissing } from '../../driver/hypervisor/qemu/firmware.js';
import { World, image } from '../e2e/world.js';

const world = new World();
afterAll(() => world.close());
const ok = (...args: string[]) => world.tshyveOk(...args);
const variables = () => join(world.machineFolder('fw'), 'efi-variables.img');

/** Asks Docker over TLS, as a client of this host. @returns its version */
async function docker(): Promise<string> {
  const url = new URL(await ok('url', 'fw'));
  const certificates = certificatePaths(join(world.store, 'certs'));
  const endpoint = { host: url.hostname, port: Number(url.port), certificates };
  return waitForDocker(endpoint, AbortSignal.timeout(180_000));
}

test('this host has the parts', async () => {
  expect(existsSync(image), `${image} is missing: run scripts/test.sh --firmware`).toBe(true);
  const qemu = await findQemu();
  if (qemu === undefined) throw new Error('QEMU is not installed: run scripts/test.sh --firmware');
  expect(await findFirmware(qemu), firmwareMissing(qemu.architecture)).toBeDefined();
});

test('create boots the image by EFI and sets up Docker', async () => {
  await ok('create', 'fw', '--firmware', '--hypervisor', 'qemu', '--memory', '768', '--image-url', `file://${image}`);
  // Only a kernel that firmware has started sees its variables; QEMU itself was given no kernel.
  expect(
    await ok('ssh', 'fw', 'ls /sys/firmware/efi/efivars | grep -c BootOrder-; cat /sys/firmware/efi/fw_platform_size'),
  ).toBe('1\n64');
  const { vmPid } = world.status();
  expect(readFileSync(`/proc/${String(vmPid)}/cmdline`, 'latin1').split('\0')).not.toContain('-kernel');
  expect(existsSync(join(world.machineFolder('fw'), 'kernel'))).toBe(false);
  expect(statSync(variables()).mode & 0o777).toBe(0o600);
  expect(await docker()).toMatch(/^20\.10/);
});

test('a variable and a file that the guest has written are there after stop and start', async () => {
  const variable = '/sys/firmware/efi/efivars/Tshyve-6d4c3b2a-0000-4000-8000-746573746576';
  // Attributes first, as efivarfs(5) wants: non-volatile, boot services, runtime.
  await ok(
    'ssh',
    'fw',
    `sudo mount -o remount,rw /sys/firmware/efi/efivars && printf '\\007\\000\\000\\000kept' | sudo tee ${variable} >/dev/null && echo kept >kept`,
  );
  await ok('stop', 'fw');
  expect(await ok('status', 'fw')).toBe('stopped');
  await ok('start', 'fw');
  expect(await ok('ssh', 'fw', `tail -c 4 ${variable}; echo; cat kept`)).toBe('kept\nkept');
  expect(await docker()).toMatch(/^20\.10/);
});

test('rm leaves nothing', async () => {
  await ok('rm', 'fw');
  await world.expectGone('fw');
});
