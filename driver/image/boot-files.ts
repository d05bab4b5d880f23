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

/**
 * Command line for images that bring none, which all are boot2docker's heirs. The console is the serial port that a PC
 * has, or QEMU's arm64 machine `virt` (a PL011).
 */
const defaultCommandLine = (architecture: string) =>
  `console=${architecture === 'arm64' ? 'ttyAMA0' : 'ttyS0'} loglevel=3 noembed nomodeset norestore base random.trust_cpu=on hw_rng_model=virtio`;
const MAX_COMMAND_LINE_BYTES = 2048;

/**
 * Takes kernel and initrd out of an ISO. Both files appear whole or not at all.
 * @param architecture of the guest, as Node calls it; this host's when not given
 * @throws TshyveError `image` when the ISO is none of the known layouts or is damaged
 */
export async function extractBootFiles(
  isoPath: string,
  kernelPath: string,
  initrdPath: string,
  signal?: AbortSignal,
  architecture: string = process.arch,
): Promise<BootFiles> {
  const iso = await IsoImage.open(isoPath);
  try {
    for (const layout of layouts) {
      const kernel = await iso.find(layout.kernel);
      const initrd = await iso.find(layout.initrd);
      if (kernel === undefined || initrd === undefined) continue;
      await checkKernel(iso, kernel, isoPath, architecture);
      await Promise.all([extract(iso, kernel, kernelPath, signal), extract(iso, initrd, initrdPath, signal)]);
      return {
        commandLine: await commandLine(iso, architecture),
        needsIsoDisk: layout.needsIsoDisk,
        volumeId: iso.volumeId,
      };
    }
    throw new TshyveError(
      'image',
      `The image ${isoPath} has no kernel and initrd in a place known to tshyve (${layouts.map((layout) => layout.kernel).join(', ')}). Use a tshyve, boot2docker or minikube image.`,
    );
  } finally {
    await iso.close();
  }
}

async function commandLine(iso: IsoImage, architecture: string): Promise<string> {
  const entry = await iso.find('/boot/cmdline');
  if (entry === undefined || entry.size > MAX_COMMAND_LINE_BYTES) return defaultCommandLine(architecture);
  const words = (await iso.read(entry)).toString('latin1').trim();
  // Printable ASCII only: the text ends up on the kernel's command line.
  return words.replace(/[^\x20-\x7e]/g, ' ');
}

/**
 * How kernels are told apart, by Node's names of architectures. Sources: Documentation/arch/x86/boot.rst;
 * Documentation/arch/arm64/booting.rst. An arm64 kernel may also be packed, which the hypervisors undo or name.
 */
const kernels = new Map([
  ['x64', { name: 'x86', image: 'an amd64', is: (head: Buffer) => isX86Kernel(head) }],
  ['arm64', { name: 'arm64', image: 'an arm64', is: (head: Buffer) => !isX86Kernel(head) }],
]);

function isX86Kernel(head: Buffer): boolean {
  return head.toString('latin1', 0x202, 0x206) === 'HdrS';
}

async function checkKernel(iso: IsoImage, kernel: IsoEntry, path: string, architecture: string): Promise<void> {
  const wanted = kernels.get(architecture);
  const head = await iso.read({ ...kernel, size: Math.min(kernel.size, 0x210) });
  if (wanted === undefined || wanted.is(head)) return;
  throw new TshyveError(
    'image',
    `The kernel of ${path} is not a Linux kernel for ${wanted.name}. Use ${wanted.image} image.`,
  );
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
