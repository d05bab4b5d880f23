/** Asks the guest to format the disk it stands on; boot2docker's, minikube's and our image look for it. */
const MAGIC = 'boot2docker, please format-me';
const BLOCK = 512;
/** Older guests read no more than this of the disk's head. */
const MAX_SEED_BYTES = 4096;

/**
 * The head of a new data disk: an uncompressed tar with the format request and the authorized key (boot2docker's
 * automount convention).
 * @throws RangeError when the key is so long that older guests would lose it
 */
export function diskSeed(publicKey: string): Buffer {
  const key = Buffer.from(publicKey);
  const seed = Buffer.concat([
    entry(MAGIC, 0o644, '0', Buffer.from(MAGIC)),
    entry('.ssh/', 0o700, '5', Buffer.alloc(0)),
    entry('.ssh/authorized_keys', 0o644, '0', key),
    entry('.ssh/authorized_keys2', 0o644, '0', key),
  ]);
  if (seed.length > MAX_SEED_BYTES) throw new RangeError(`a disk seed of ${String(seed.length)} bytes`);
  // The disk behind it is zero, which ends the archive.
  return seed;
}

/** A ustar header and its data (POSIX.1-1988, IEEE Std 1003.1 "pax"). */
function entry(name: string, mode: number, type: string, data: Buffer): Buffer {
  const header = Buffer.alloc(BLOCK);
  const octal = (value: number, length: number) => `${value.toString(8).padStart(length - 1, '0')}\0`;
  header.write(name, 0, 100, 'latin1');
  header.write(octal(mode, 8), 100, 'latin1');
  header.write(octal(0, 8), 108, 'latin1');
  header.write(octal(0, 8), 116, 'latin1');
  header.write(octal(data.length, 12), 124, 'latin1');
  header.write(octal(0, 12), 136, 'latin1');
  header.write('        ', 148, 'latin1');
  header.write(type, 156, 'latin1');
  header.write('ustar\x0000', 257, 'latin1');
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  const padding = Buffer.alloc((BLOCK - (data.length % BLOCK)) % BLOCK);
  return Buffer.concat([header, data, padding]);
}
