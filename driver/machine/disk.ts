import { chmod, open, rename, rm, stat } from 'node:fs/promises';

import * as v from 'valibot';

import { TshyveError, exists, fileError, run } from '../base/index.js';

/**
 * Makes a sparse raw disk whose first bytes are given. Never overwrites: a disk holds the user's data.
 * @param sizeMB size in MB (2^20 bytes)
 */
export async function createDisk(path: string, sizeMB: number, head: Uint8Array = new Uint8Array()): Promise<void> {
  try {
    const file = await open(path, 'wx', 0o600);
    try {
      await file.truncate(sizeMB * 1024 * 1024);
      if (head.length > 0) await file.write(head, 0, head.length, 0);
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (error) {
    throw fileError(`create the disk ${path}`, error);
  }
}

/** First bytes of a qcow2 image (docs/interop/qcow2.txt of QEMU). */
const QCOW2_MAGIC = Buffer.from('QFI\xfb', 'latin1');

/**
 * Checks an existing image that is to serve as a disk. A raw one is used where it lies; a qcow2 one is imported.
 * @returns its format
 * @throws TshyveError `usage` naming what is wrong with it, `precondition` when qemu-img is needed and missing
 */
export async function checkDiskImage(path: string, signal: AbortSignal): Promise<'raw' | 'qcow2'> {
  if (!(await exists(path))) throw new TshyveError('usage', `The extra disk ${path} does not exist. Create it first.`);
  const status = await stat(path);
  if (!status.isFile() && !status.isBlockDevice()) {
    throw new TshyveError('usage', `The extra disk ${path} is neither a file nor a block device.`);
  }
  if (status.isFile() && (await isQcow2(path))) {
    await checkQcow2(path, signal);
    return 'qcow2';
  }
  if (status.isFile() && (status.size === 0 || status.size % 512 !== 0)) {
    throw new TshyveError(
      'usage',
      `The extra disk ${path} has ${String(status.size)} bytes; a raw image is a multiple of 512. Convert other formats with "qemu-img convert -O raw".`,
    );
  }
  const file = await open(path, 'r+').catch((error: unknown) => {
    throw fileError(`open the extra disk ${path}`, error);
  });
  await file.close();
  return 'raw';
}

/** True when the file begins as a qcow2 image does. A raw disk of which a guest made one looks the same. */
async function isQcow2(path: string): Promise<boolean> {
  const file = await open(path, 'r').catch((error: unknown) => {
    throw fileError(`open the extra disk ${path}`, error);
  });
  try {
    const head = Buffer.alloc(QCOW2_MAGIC.length);
    await file.read(head, 0, head.length, 0);
    return head.equals(QCOW2_MAGIC);
  } finally {
    await file.close();
  }
}

/** Whoever made an image could have it refer to any file of this host: only those that stand alone are imported. */
async function checkQcow2(path: string, signal: AbortSignal): Promise<void> {
  const { code, stdout, stderr } = await run('qemu-img', ['info', '-f', 'qcow2', '--output=json', path], { signal });
  const parsed = v.safeParse(v.pipe(v.string(), v.parseJson(), qcow2Info), stdout);
  if (code !== 0 || !parsed.success) {
    throw new TshyveError('usage', `The extra disk ${path} is a damaged qcow2 image: ${stderr.trim()}.`);
  }
  const { 'backing-filename': backing, 'format-specific': specific } = parsed.output;
  const other = backing ?? specific?.data['data-file'];
  if (other !== undefined) {
    throw new TshyveError(
      'usage',
      `The extra disk ${path} needs the file ${other} beside it. Make one that stands alone with "qemu-img convert -O qcow2".`,
    );
  }
}

const qcow2Info = v.object({
  'backing-filename': v.optional(v.string()),
  'format-specific': v.optional(v.object({ data: v.object({ 'data-file': v.optional(v.string()) }) })),
});

/**
 * Imports a checked qcow2 image as a sparse raw disk; the image is left alone.
 * @throws TshyveError `no-space`, `usage` with the words of qemu-img, `cancelled`
 */
export async function importQcow2(from: string, to: string, signal: AbortSignal): Promise<void> {
  const temporary = `${to}.tmp`;
  try {
    const args = ['convert', '-f', 'qcow2', '-O', 'raw', '-S', '4k', from, temporary];
    const { code, stderr } = await run('qemu-img', args, { signal });
    if (code !== 0) {
      const full = stderr.includes('No space left on device');
      throw full
        ? new TshyveError('no-space', `Cannot import ${from}: the disk is full. Free some space and try again.`)
        : new TshyveError('usage', `Cannot import ${from}: ${stderr.trim()}.`);
    }
    await chmod(temporary, 0o600);
    await rename(temporary, to);
  } finally {
    await rm(temporary, { force: true });
  }
}
