import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { type Log, TshyveError, exists, guestArchitecture, packageRoot, releaseImage } from '../base/index.js';
import { IsoImage } from './iso9660.js';

/** Where an image is to come from. */
export interface ImageSource {
  readonly url: URL;
  /** Lower-case hex; undefined when nobody gave one. */
  readonly sha256: string | undefined;
}

/** An image that lies on this host and was checked. */
export interface LocalImage {
  readonly path: string;
  /** What `Boot2DockerURL` shall say, so that `upgrade` works without a network. */
  readonly fileUrl: string;
}

/**
 * Parses what a user gave as the image. An empty text means the image of this release.
 * @throws TshyveError `usage` naming what is allowed
 */
export function parseImageSource(text: string, sha256: string): ImageSource {
  const checksum = sha256 === '' ? undefined : sha256.toLowerCase();
  if (text === '') return defaultSource(checksum);
  let url: URL;
  try {
    url = text.startsWith('/') ? pathToFileURL(text) : new URL(text);
  } catch (error) {
    throw new TshyveError('usage', `The image url "${text}" is not a url: give file:///PATH or https://….`, {
      cause: error,
    });
  }
  if (url.protocol === 'file:' && url.host !== '') {
    throw new TshyveError('usage', `The image url "${text}" names a host: write file:///PATH with three slashes.`);
  }
  if (url.protocol === 'https:' || url.protocol === 'file:') return { url, sha256: checksum };
  if (url.protocol === 'http:' && (checksum !== undefined || isLoopback(url.hostname)))
    return { url, sha256: checksum };
  throw new TshyveError(
    'usage',
    url.protocol === 'http:'
      ? `The image url "${text}" is not encrypted: use https, or give the checksum with --tshyve-image-sha256.`
      : `The image url "${text}" has an unknown scheme: give file:///PATH or https://….`,
  );
}

/**
 * Makes an image available as a local file: files are checked where they lie, downloads go through the cache.
 * @throws TshyveError `not-found`, `image` (damaged, wrong checksum, failed download), `no-space`, `cancelled`
 */
export async function resolveImage(
  source: ImageSource,
  cacheDirectory: string,
  operation: { readonly log: Log; readonly signal: AbortSignal },
): Promise<LocalImage> {
  if (source.url.protocol !== 'file:') {
    const { downloadImage } = await import('./download.js');
    const path = await downloadImage(source, cacheDirectory, operation);
    return { path, fileUrl: pathToFileURL(path).href };
  }
  const path = fileURLToPath(source.url);
  const iso = await IsoImage.open(path);
  await iso.close();
  if (source.sha256 !== undefined) await checkChecksum(path, source.sha256, operation.signal);
  return { path, fileUrl: pathToFileURL(path).href };
}

/** @throws TshyveError `image` with both checksums */
export async function checkChecksum(path: string, wanted: string, signal: AbortSignal): Promise<void> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20, signal })) hash.update(chunk as Buffer);
  const found = hash.digest('hex');
  if (found !== wanted) {
    throw new TshyveError(
      'image',
      `The image ${path} has the SHA-256 checksum ${found}, but ${wanted} was asked for. Check --tshyve-image-sha256, or get the image again.`,
    );
  }
}

function defaultSource(sha256: string | undefined): ImageSource {
  const image = releaseImage();
  if (image?.file !== undefined)
    return { url: pathToFileURL(join(packageRoot(), image.file)), sha256: sha256 ?? image.sha256 };
  if (image?.url !== undefined) return { url: new URL(image.url), sha256: sha256 ?? image.sha256 };
  throw new TshyveError(
    'precondition',
    `This release has no guest image for ${guestArchitecture}. Give one with --tshyve-image-url.`,
  );
}

/** Turns "no such file" into what to do about it when it is the image of this release that is missing. */
export async function requireSourceFile(source: ImageSource): Promise<void> {
  if (source.url.protocol !== 'file:') return;
  const path = fileURLToPath(source.url);
  if (await exists(path)) return;
  const own = path.startsWith(packageRoot());
  throw new TshyveError(
    'not-found',
    own
      ? `The guest image ${path} does not exist yet. Build it with "iso/build.sh --arch ${guestArchitecture}" on Debian or Ubuntu, or give another with --tshyve-image-url.`
      : `The guest image ${path} does not exist. Check --tshyve-image-url.`,
  );
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '[::1]' || /^127(\.\d+){3}$/.test(host);
}
