import { open, stat } from 'node:fs/promises';

import { TshyveError, exists, fileError } from '../base/index.js';

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

/** @throws TshyveError `usage` when an existing raw image cannot serve as a disk */
export async function checkRawImage(path: string): Promise<void> {
  if (!(await exists(path))) throw new TshyveError('usage', `The extra disk ${path} does not exist. Create it first.`);
  const status = await stat(path);
  if (!status.isFile() && !status.isBlockDevice()) {
    throw new TshyveError('usage', `The extra disk ${path} is neither a file nor a block device.`);
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
  try {
    const head = new Uint8Array(4);
    await file.read(head, 0, 4, 0);
    if (Buffer.from(head).equals(Buffer.from('QFI\xfb', 'latin1'))) {
      throw new TshyveError(
        'usage',
        `The extra disk ${path} is a qcow2 image. Convert it with "qemu-img convert -O raw".`,
      );
    }
  } finally {
    await file.close();
  }
}
