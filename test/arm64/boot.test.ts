import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { noLog, within } from '../../driver/base/index.js';
import { type GuestSession, contactGuest, createKeyPair, diskSeed } from '../../driver/guest/index.js';
import type { VirtualMachine, VmSpec } from '../../driver/hypervisor/index.js';
import { findQemu } from '../../driver/hypervisor/qemu/binary.js';
import { launchQemu } from '../../driver/hypervisor/qemu/qemu-machine.js';
import { extractBootFiles } from '../../driver/image/index.js';
import { createDisk } from '../../driver/machine/disk.js';
import { ConsoleEvents } from '../../driver/supervisor/console-events.js';

const image = resolve(import.meta.dirname, '../../iso/out/tshyve-arm64.iso');
const folder = mkdtempSync(join(tmpdir(), 'tsa-'));
const keys = createKeyPair('arm64');
const LAUNCH_MS = 600_000;

let spec: VmSpec;
let machine: VirtualMachine | undefined;
let session: GuestSession;
let console_ = '';
/** Seconds from the launch to each milestone. */
const times: Record<string, number> = {};

async function boot(what: VmSpec = spec): Promise<void> {
  const qemu = await findQemu(process.env, 'aarch64');
  if (qemu === undefined) throw new Error('qemu-system-aarch64 is not installed: run scripts/test.sh --arm64');
  const begun = performance.now();
  const mark = (name: string) => {
    times[`${name}${what.firmware === undefined ? '' : ' by firmware'}`] =
      Math.round((performance.now() - begun) / 100) / 10;
  };
  const events = new ConsoleEvents(mark);
  machine = await launchQemu(qemu, 'tcg', what, {
    runDirectory: folder,
    log: noLog,
    onConsole: (bytes) => {
      console_ += bytes.toString('latin1');
      events.push(bytes);
    },
  });
  const ssh = machine.forwards.find(({ name }) => name === 'ssh');
  const { privateKey } = keys;
  const address = { host: ssh?.hostAddress ?? '', port: ssh?.hostPort ?? 0, username: 'docker', privateKey };
  const signal = new AbortController().signal;
  session = await contactGuest({ ...address, hostKey: undefined }, { timeoutMs: LAUNCH_MS, signal }).catch(
    (error: unknown) => {
      throw new Error(`The guest cannot be reached. Its console: ${console_.slice(-2000)}`, { cause: error });
    },
  );
  mark('session');
}

beforeAll(async () => {
  const paths = { kernel: join(folder, 'kernel'), initrd: join(folder, 'initrd'), data: join(folder, 'disk.img') };
  const files = await extractBootFiles(image, paths.kernel, paths.initrd, undefined, 'arm64');
  await createDisk(paths.data, 4000, diskSeed(keys.publicKey));
  spec = {
    name: 'arm64',
    uuid: '00000000-0000-8000-8000-0000000000a6',
    cpus: 2,
    memoryMiB: 1024,
    boot: { kernel: paths.kernel, initrd: paths.initrd, commandLine: `${files.commandLine} tshyve.hostname=arm64` },
    disks: [
      { id: 'data', path: paths.data, readOnly: false },
      { id: 'image', path: image, readOnly: true },
    ],
    network: {
      mode: 'user',
      mac: '02:00:00:00:00:a6',
      hostname: 'arm64',
      hostAddress: '127.64.99.64',
      forwards: [{ name: 'ssh', guestPort: 22, hostPorts: [0] }],
    },
  };
  await boot();
});
afterAll(async () => {
  await machine?.kill();
  rmSync(folder, { recursive: true });
  console.info('Seconds to each milestone:', JSON.stringify(times));
});

test('it boots with its milestones, its name and its own kernel', async () => {
  expect(Object.keys(times)).toEqual(expect.arrayContaining(['init', 'userspace', 'address', 'disk', 'session']));
  expect(
    // Not "--wait", which does not return for a user without a system bus of its own.
    await session.check(
      'uname -m; hostname; while [ "$(systemctl is-system-running)" = starting ]; do sleep 1; done; systemctl is-system-running || true; systemctl --failed -q',
      { timeoutMs: LAUNCH_MS },
    ),
  ).toBe('aarch64\narm64\nrunning\n');
});

test('Docker runs a container', async () => {
  const timeoutMs = LAUNCH_MS;
  const begun = performance.now();
  await session.check('sudo docker version >/dev/null', { timeoutMs });
  times['docker'] = Math.round((performance.now() - begun) / 100) / 10;
  // An image of the guest's own files: no registry is asked.
  await session.check(
    'mkdir t && cd t && cp -L --parents /bin/sh /bin/uname $(ldd /bin/sh /bin/uname | grep -o "/lib[^ ]*" | sort -u) . && tar -c . | sudo docker import - tiny',
    { timeoutMs },
  );
  expect(await session.check('sudo docker run --rm --network none tiny /bin/uname -m', { timeoutMs })).toBe(
    'aarch64\n',
  );
});

async function powerOff(): Promise<void> {
  await machine?.pressPowerButton();
  const ended = machine?.exited ?? Promise.reject(new Error('no machine'));
  const exit = await within(ended, 60_000, 'the guest to power off');
  expect(exit.reason).toBe('shutdown');
}

test('the power button ends it, and what was written is there after the next boot', async () => {
  await session.check('echo kept > kept && sync');
  await powerOff();
  expect(times).toHaveProperty('poweroff');
  writeFileSync(join(folder, 'first-console'), console_);
  await boot();
  expect(await session.check('cat kept')).toBe('kept\n');
});

test('EFI firmware boots it from its ISO, and its power button ends it as well', async () => {
  await powerOff();
  await boot({ ...spec, firmware: { variableStore: join(folder, 'efi-variables.img') } });
  // Only a kernel that firmware has started sees its variables.
  expect(await session.check('ls /sys/firmware/efi/efivars | grep -c BootOrder-; cat kept')).toBe('1\nkept\n');
  await powerOff();
});
