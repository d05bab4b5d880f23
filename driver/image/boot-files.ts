import { randomBytes } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

import { TshyveError, fileError } from '../base/index.js';
import { type IsoEntry, IsoImage } from './iso9660.js';

/** What a direct boot of an image needs. */
export interface BootFiles {
  /** The image's own kernel command line; empty when it has none of its own. */
  readonly commandLine: string;
  /** True when the initrd is a small one that looks for the ISO among the disks. */
  readonly needsIsoDisk: boolean;
  readonly volumeId: string;
}

/** Where known images keep kernel and initrd: ours, minikube's, boot2docker's. */
const layouts = [
  { kernel: '/boot/bzimage', initrd: '/boot/initrd.small', needsIsoDisk: true },
  { kernel: '/boot/bzimage', initrd: '/boot/initrd', needsIsoDisk: false },
  { kernel: '/boot/vmlinuz64', initrd: '/boot/initrd.img', needsIsoDisk: false },
  { kernel: '/boot/vmlinuz', initrd: '/boot/initrd.img', needsIsoDisk: false },
] as const;

/** Command line for images that bring none, which all are boot2docker's heirs. */
const DEFAULT_COMMAND_LINE =
  'console=ttyS0 loglevel=3 noembed nomodeset norestore base random.trust_cpu=on hw_rng_model=virtio';
const MAX_COMMAND_LINE_BYTES = 2048;

/**
 * Takes kernel and initrd out of an ISO. Both files appear whole or not at all.
 * @throws TshyveError `image` when the ISO is none of the known layouts or is damaged
 */
export async function extractBootFiles(
  isoPath: string,
  kernelPath: string,
  initrdPath: string,
  signal?: AbortSignal,
): Promise<BootFiles> {
  const iso = await IsoImage.open(isoPath);
  try {
    for (const layout of layouts) {
      const kernel = await iso.find(layout.kernel);
      const initrd = await iso.find(layout.initrd);
      if (kernel === undefined || initrd === undefined) continue;
      await checkKernel(iso, kernel, isoPath);
      await Promise.all([extract(iso, kernel, kernelPath, signal), extract(iso, initrd, initrdPath, signal)]);
      return { commandLine: await commandLine(iso), needsIsoDisk: layout.needsIsoDisk, volumeId: iso.volumeId };
    }
    throw new TshyveError(
      'image',
      `The image ${isoPath} has no kernel and initrd in a place known to tshyve (${layouts.map((layout) => layout.kernel).join(', ')}). Use a tshyve, boot2docker or minikube image.`,
    );
  } finally {
    await iso.close();
  }
}

async function commandLine(iso: IsoImage): Promise<string> {
  const entry = await iso.find('/boot/cmdline');
  if (entry === undefined || entry.size > MAX_COMMAND_LINE_BYTES) return DEFAULT_COMMAND_LINE;
  const words = (await iso.read(entry)).toString('latin1').trim();
  // Printable ASCII only: the text ends up on the kernel's command line.
  return words.replace(/[^\x20-\x7e]/g, ' ');
}

/** Linux/x86 boot protocol: `HdrS` at 0x202. Other architectures bring other formats. */
async function checkKernel(iso: IsoImage, kernel: IsoEntry, path: string): Promise<void> {
  if (process.arch !== 'x64') return;
  const head = await iso.read({ ...kernel, size: Math.min(kernel.size, 0x210) });
  if (head.toString('latin1', 0x202, 0x206) !== 'HdrS') {
    throw new TshyveError('image', `The kernel of ${path} is not a Linux kernel for x86. Use an amd64 image.`);
  }
}

async function extract(iso: IsoImage, entry: IsoEntry, path: string, signal?: AbortSignal): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    const source = Readable.from(iso.stream(entry), { objectMode: false });
    await pipeline(source, createWriteStream(temporary, { mode: 0o600 }), signal === undefined ? {} : { signal });
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    if (signal?.aborted === true)
      throw new TshyveError('cancelled', 'Unpacking the image was cancelled.', { cause: error });
    throw fileError(`write ${path}`, error);
  }
}
