import { randomBytes } from 'node:crypto';
import { access, constants, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { TshyveError, hasRunRoot, makePrivateDirectory, run, runRoot, writeFileAtomic } from '../../base/index.js';
import type { QemuProgram } from './binary.js';

/**
 * Some nested hosts offer /dev/kvm but emulate the guest's kernel code, at about 1.5 million instructions a second:
 * stock kernels never finish booting there. So KVM counts only after a guest of ours has run at hardware speed.
 */

/** Two instructions each; about 2 ms of work for hardware, 2.8 s for such an emulator. */
const LOOPS = 1 << 21;
/** QEMU's own start takes some 100 ms of it. */
const DEADLINE_MS = 1_000;
const MAX_CPU_SECONDS = 1;

/** A firmware that counts down and ends its machine, which board it is for, and how QEMU ends then. */
export const probeGuests = {
  // The exit code is what isa-debug-exit makes of the 0 that the payload writes.
  x86_64: { payload, exitCode: 1, machine: ['-machine', 'q35', '-device', 'isa-debug-exit,iobase=0xf4,iosize=1'] },
  aarch64: { payload: payloadForArm, exitCode: 0, machine: ['-machine', 'virt,gic-version=max', '-cpu', 'host'] },
} as const;

export type KvmVerdict = { readonly usable: true } | { readonly usable: false; readonly reason: string };

/**
 * Says whether QEMU can use KVM here at full speed. The native core finds out in some milliseconds; where it is not
 * built, QEMU itself runs a test guest.
 */
export async function probeKvm(qemu: QemuProgram, signal?: AbortSignal): Promise<KvmVerdict> {
  const { probeNative } = await import('../native/index.js');
  const probed = await probeNative();
  if ('missing' in probed) return probeWithQemu(qemu, signal);
  if (probed.hardwareSpeed) return { usable: true };
  // An emulating host is told to use QEMU, which is what happens here; other sentences name a fix.
  const reason = probed.permitted ? (probed.reason.split('. ')[0] ?? '') : probed.reason.replace(/\.$/, '');
  return { usable: false, reason };
}

/** The costly part is remembered until the next boot of this host or a change of QEMU. */
export async function probeWithQemu(qemu: QemuProgram, signal?: AbortSignal): Promise<KvmVerdict> {
  try {
    await access('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    return {
      usable: false,
      reason: missing
        ? '/dev/kvm does not exist: switch on virtualization in the firmware (or nested virtualization in the cloud)'
        : '/dev/kvm is not accessible: add your user to the group "kvm" and log in again',
    };
  }
  const cache = join(runRoot(), 'kvm-probe.json');
  const key = await hostKey(qemu.path);
  const known = (await hasRunRoot()) ? await readCache(cache, key) : undefined;
  if (known !== undefined) return verdict(known);
  const fast = await runsAtHardwareSpeed(qemu, signal);
  await makePrivateDirectory(runRoot());
  await writeFileAtomic(cache, JSON.stringify({ key, fast }));
  return verdict(fast);
}

function verdict(fast: boolean): KvmVerdict {
  return fast
    ? { usable: true }
    : {
        usable: false,
        reason: 'KVM on this host emulates the guest kernel instead of running it (nested without hardware support)',
      };
}

/** What a verdict depends on: this boot of the host and this QEMU. */
async function hostKey(qemu: string): Promise<string> {
  const boot = await readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => '');
  const status = await stat(qemu);
  return `${boot.trim()} ${qemu} ${String(status.mtimeMs)} ${String(status.size)}`;
}

async function readCache(path: string, key: string): Promise<boolean | undefined> {
  try {
    const cached = JSON.parse(await readFile(path, 'utf8')) as unknown;
    if (typeof cached !== 'object' || cached === null || !('key' in cached) || !('fast' in cached)) return undefined;
    return cached.key === key && typeof cached.fast === 'boolean' ? cached.fast : undefined;
  } catch {
    return undefined;
  }
}

async function runsAtHardwareSpeed(qemu: QemuProgram, signal?: AbortSignal): Promise<boolean> {
  const folder = await mkdtemp(join(tmpdir(), `tshyve-${randomBytes(3).toString('hex')}-`));
  try {
    const firmware = join(folder, 'probe.bin');
    const guest = probeGuests[qemu.architecture];
    await writeFile(firmware, guest.payload());
    const args = ['-nodefaults', '-no-user-config', '-display', 'none', '-accel', 'kvm', '-m', '16'];
    args.push('-bios', firmware, ...guest.machine);
    const options = { timeoutMs: DEADLINE_MS, ...(signal === undefined ? {} : { signal }) };
    // Where KVM emulates, the payload spins for long; if we are killed meanwhile, the kernel must end it.
    const result = await run('prlimit', [`--cpu=${String(MAX_CPU_SECONDS)}`, qemu.path, ...args], options);
    return result.code === guest.exitCode;
  } catch (error) {
    if (TshyveError.is(error, 'timeout')) return false;
    throw error;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** A 64 KiB firmware: enters protected mode, counts down, writes 0 to port 0xf4. */
export function payload(): Buffer {
  const image = Buffer.alloc(65_536);
  const put = (offset: number, ...bytes: number[]) => Buffer.from(bytes).copy(image, offset);
  // Reset vector at f000:fff0: jmp to offset 0.
  put(0xfff0, 0xe9, 0x0d, 0x00);
  // cli; lgdt cs:[0x40]; cr0 |= PE; jmp 8:0xf0080
  put(0x00, 0xfa, 0x2e, 0x66, 0x0f, 0x01, 0x16, 0x40, 0x00, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0);
  put(0x10, 0x66, 0xea, 0x80, 0x00, 0x0f, 0x00, 0x08, 0x00);
  // GDT register: limit, base 0xf0048; flat code and data segments
  put(0x40, 0x17, 0x00, 0x48, 0x00, 0x0f, 0x00);
  image.writeBigUInt64LE(0x00cf_9a00_0000_ffffn, 0x50);
  image.writeBigUInt64LE(0x00cf_9200_0000_ffffn, 0x58);
  // mov ecx, LOOPS; dec ecx; jnz -3; mov al, 0; out 0xf4, al; hlt; jmp -3
  put(0x80, 0xb9, 0, 0, 0, 0, 0x49, 0x75, 0xfd, 0xb0, 0x00, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd);
  image.writeUInt32LE(LOOPS, 0x81);
  return image;
}

/**
 * A firmware for QEMU's `virt`, which runs it from address 0: counts down, then asks for power off.
 * Sources: Arm ARM (A64 encodings), PSCI DEN0022 (SYSTEM_OFF is function 0x84000008, called with HVC).
 */
export function payloadForArm(): Buffer {
  const image = Buffer.alloc(4096);
  const words = [
    // movz w1, #(LOOPS >> 16), lsl 16; subs w1, w1, #1; b.ne -4
    0x52a0_0001 | ((LOOPS >> 16) << 5),
    0x7100_0421,
    0x54ff_ffe1,
    // movz w0, #0x8400, lsl 16; movk w0, #8; hvc #0; b .
    0x52b0_8000,
    0x7280_0100,
    0xd400_0002,
    0x1400_0000,
  ];
  for (const [index, word] of words.entries()) image.writeUInt32LE(word >>> 0, index * 4);
  return image;
}
