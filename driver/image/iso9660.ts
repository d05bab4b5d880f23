import { type FileHandle, open } from 'node:fs/promises';

import { TshyveError, fileError } from '../base/index.js';

/** A reader of ISO 9660 images (ECMA-119) with Rock Ridge names (IEEE P1282 NM entries). Read-only, nothing trusted. */

const SECTOR = 2048;
/** The first 16 sectors are the system area (ECMA-119 6.2.1). */
const FIRST_DESCRIPTOR = 16;
const MAX_DESCRIPTORS = 64;
const MAX_DIRECTORY_BYTES = 4 << 20;
const DIRECTORY_FLAG = 0x02;
const MULTI_EXTENT_FLAG = 0x80;

export interface IsoEntry {
  readonly name: string;
  readonly isDirectory: boolean;
  /** Bytes from the start of the image. */
  readonly offset: number;
  readonly size: number;
}

export class IsoImage {
  /** Volume identifier, e.g. `b2d-v19.03.12`. */
  readonly volumeId: string;
  readonly #file: FileHandle;
  readonly #path: string;
  readonly #size: number;
  readonly #root: IsoEntry;

  private constructor(file: FileHandle, path: string, size: number, volumeId: string, root: IsoEntry) {
    this.#file = file;
    this.#path = path;
    this.#size = size;
    this.volumeId = volumeId;
    this.#root = root;
  }

  /** @throws TshyveError `image` when the file is no ISO or is cut short, `not-found` when there is none */
  static async open(path: string): Promise<IsoImage> {
    const file = await open(path, 'r').catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
        throw new TshyveError('not-found', `The image ${path} does not exist. Check its path.`, { cause: error });
      }
      throw fileError(`open the image ${path}`, error);
    });
    try {
      const { size } = await file.stat();
      const descriptor = await primaryDescriptor(file, path, size);
      const sectors = descriptor.readUInt32LE(80);
      if (sectors * SECTOR > size) {
        throw broken(
          path,
          `it has ${String(size)} bytes where ${String(sectors * SECTOR)} belong: the file is cut short`,
        );
      }
      const root = directoryRecord(descriptor.subarray(156, 190), path, size);
      if (root === undefined) throw broken(path, 'it has no root directory');
      return new IsoImage(file, path, size, descriptor.toString('latin1', 40, 72).trim(), root);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  /** The file or folder with this path, e.g. `/boot/initrd`; names match without regard to case. */
  async find(path: string): Promise<IsoEntry | undefined> {
    let entry = this.#root;
    for (const name of path.split('/').filter((part) => part !== '')) {
      if (!entry.isDirectory) return undefined;
      const wanted = name.toLowerCase();
      const next = (await this.list(entry)).find((candidate) => candidate.name.toLowerCase() === wanted);
      if (next === undefined) return undefined;
      entry = next;
    }
    return entry;
  }

  async list(directory: IsoEntry): Promise<IsoEntry[]> {
    if (directory.size > MAX_DIRECTORY_BYTES) throw broken(this.#path, 'a directory is too large');
    const bytes = await this.read(directory);
    const entries: IsoEntry[] = [];
    for (let at = 0; at < bytes.length;) {
      const length = bytes[at] ?? 0;
      if (length === 0) {
        // Records do not cross sectors; the rest of this one is empty.
        at = (Math.floor(at / SECTOR) + 1) * SECTOR;
        continue;
      }
      const entry = directoryRecord(bytes.subarray(at, at + length), this.#path, this.#size);
      if (entry !== undefined && entry.name !== '\0' && entry.name !== '\x01') entries.push(entry);
      at += length;
    }
    return entries;
  }

  /** Reads a small file whole. */
  async read(entry: IsoEntry): Promise<Buffer> {
    const bytes = Buffer.alloc(entry.size);
    await readFully(this.#file, bytes, entry.offset, this.#path);
    return bytes;
  }

  /** The bytes of a file, in pieces. */
  stream(entry: IsoEntry): AsyncIterable<Buffer> {
    if (entry.size === 0) return noBytes();
    return this.#file.createReadStream({
      start: entry.offset,
      end: entry.offset + entry.size - 1,
      autoClose: false,
      highWaterMark: 1 << 20,
    }) as AsyncIterable<Buffer>;
  }
}

// eslint-disable-next-line @typescript-eslint/require-await -- an empty asynchronous sequence
async function* noBytes(): AsyncIterable<Buffer> {
  yield* [];
}

async function primaryDescriptor(file: FileHandle, path: string, size: number): Promise<Buffer> {
  const sector = Buffer.alloc(SECTOR);
  for (let index = FIRST_DESCRIPTOR; index < FIRST_DESCRIPTOR + MAX_DESCRIPTORS; index++) {
    if ((index + 1) * SECTOR > size) break;
    await readFully(file, sector, index * SECTOR, path);
    if (sector.toString('latin1', 1, 6) !== 'CD001') break;
    if (sector[0] === 1) return sector;
    if (sector[0] === 255) break;
  }
  throw broken(path, 'it is not an ISO 9660 image');
}

/** ECMA-119 9.1; undefined for a record without a name. */
function directoryRecord(record: Buffer, path: string, imageSize: number): IsoEntry | undefined {
  if (record.length < 34) throw broken(path, 'a directory record is cut short');
  const offset = record.readUInt32LE(2) * SECTOR;
  const size = record.readUInt32LE(10);
  const flags = record[25] ?? 0;
  const nameLength = record[32] ?? 0;
  if (nameLength === 0) return undefined;
  if (33 + nameLength > record.length) throw broken(path, 'a name is cut short');
  if (offset + size > imageSize) throw broken(path, 'a file lies beyond its end: the file is cut short');
  if ((flags & MULTI_EXTENT_FLAG) !== 0) throw broken(path, 'it has files in several extents, which is not supported');
  const plain = record.toString('latin1', 33, 33 + nameLength);
  // The system use area begins on an even offset.
  const name = rockRidgeName(record.subarray(33 + nameLength + (nameLength % 2 === 0 ? 1 : 0))) ?? plainName(plain);
  return { name, isDirectory: (flags & DIRECTORY_FLAG) !== 0, offset, size };
}

function plainName(name: string): string {
  return name.replace(/;\d+$/, '').replace(/(?<=.)\.$/, '');
}

/** Joins the NM entries of a system use area (SUSP: signature, length, version, data). */
function rockRidgeName(area: Buffer): string | undefined {
  let name: string | undefined;
  for (let at = 0; at + 4 <= area.length;) {
    const length = area[at + 2] ?? 0;
    if (length < 4 || at + length > area.length) break;
    if (area.toString('latin1', at, at + 2) === 'NM' && length > 5 && ((area[at + 4] ?? 0) & 0x06) === 0) {
      name = (name ?? '') + area.toString('utf8', at + 5, at + length);
    }
    at += length;
  }
  return name;
}

async function readFully(file: FileHandle, into: Buffer, offset: number, path: string): Promise<void> {
  let done = 0;
  while (done < into.length) {
    const { bytesRead } = await file.read(into, done, into.length - done, offset + done);
    if (bytesRead === 0) throw broken(path, 'the file is cut short');
    done += bytesRead;
  }
}

function broken(path: string, what: string): TshyveError {
  return new TshyveError('image', `The image ${path} cannot be used: ${what}. Download or build it again.`);
}
