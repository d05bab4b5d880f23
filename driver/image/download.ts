import { createHash } from 'node:crypto';
import { type FileHandle, mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';

import { type Log, TshyveError, exists, fileError, lockFile, messageOf } from '../base/index.js';
import { IsoImage } from './iso9660.js';
import { type ImageSource, checkChecksum } from './source.js';

const STALL_TIMEOUT_MS = 30_000;
const LOCK_TIMEOUT_MS = 3_600_000;
const PROGRESS_INTERVAL_MS = 1_000;

/**
 * Downloads an image into the cache, resuming what an earlier attempt has left. Two processes share one download.
 * @returns the path of the checked image
 */
export async function downloadImage(
  source: ImageSource,
  cacheDirectory: string,
  operation: { readonly log: Log; readonly signal: AbortSignal },
): Promise<string> {
  const name = source.sha256 ?? createHash('sha256').update(source.url.href).digest('hex');
  const target = join(cacheDirectory, `${name}.iso`);
  await mkdir(cacheDirectory, { recursive: true, mode: 0o700 }).catch((error: unknown) => {
    throw fileError(`make the folder ${cacheDirectory}`, error);
  });
  if (await exists(target)) return target;
  const lock = await lockFile(`${target}.lock`, { timeoutMs: LOCK_TIMEOUT_MS, signal: operation.signal });
  try {
    if (await exists(target)) return target;
    const partial = `${target}.partial`;
    await fetchInto(partial, source.url, operation);
    try {
      if (source.sha256 !== undefined) await checkChecksum(partial, source.sha256, operation.signal);
      await (await IsoImage.open(partial)).close();
    } catch (error) {
      // Wrong bytes must not be resumed.
      await rm(partial, { force: true });
      throw error;
    }
    await rename(partial, target);
    return target;
  } finally {
    await rm(`${target}.lock`, { force: true });
    await lock.release();
  }
}

/** Appends to a partial file what the server has beyond it. */
async function fetchInto(partial: string, url: URL, operation: { readonly log: Log; readonly signal: AbortSignal }) {
  const stall = new AbortController();
  const timer = setTimeout(() => {
    stall.abort();
  }, STALL_TIMEOUT_MS);
  const signal = AbortSignal.any([operation.signal, stall.signal]);
  let file: FileHandle | undefined;
  try {
    const have = (await exists(partial)) ? (await stat(partial)).size : 0;
    const response = await fetch(url, { signal, headers: have > 0 ? { range: `bytes=${String(have)}-` } : {} });
    // 416: the partial file is complete (or wrong, which the checksum will tell).
    if (response.status === 416 && have > 0) return;
    if (!response.ok || response.body === null) {
      throw new TshyveError(
        'image',
        `${url.href} answers ${String(response.status)} ${response.statusText}. Check the image url.`,
      );
    }
    const resumed = response.status === 206;
    const total = Number(response.headers.get('content-length') ?? 0) + (resumed ? have : 0);
    file = await open(partial, resumed ? 'a' : 'w', 0o600);
    let done = resumed ? have : 0;
    let lastReport = 0;
    for await (const chunk of response.body) {
      timer.refresh();
      await file.write(chunk as Uint8Array);
      done += (chunk as Uint8Array).length;
      if (performance.now() - lastReport > PROGRESS_INTERVAL_MS) {
        lastReport = performance.now();
        const percent = total > 0 ? ` (${String(Math.floor((done / total) * 100))} %)` : '';
        operation.log.info(`Downloading the guest image: ${String(Math.floor(done / 1e6))} MB${percent}`);
      }
    }
    if (total > 0 && done < total) {
      throw new TshyveError(
        'image',
        `The download of ${url.href} ended early. Try again: it goes on where it stopped.`,
      );
    }
    await file.sync();
  } catch (error) {
    if (operation.signal.aborted) throw new TshyveError('cancelled', 'The download was cancelled.', { cause: error });
    if (stall.signal.aborted) {
      throw new TshyveError('image', `The download of ${url.href} stalled for 30 s. Check the network and try again.`);
    }
    if (TshyveError.is(error)) throw error;
    // fetch reports every failure of the network, also in the middle of the body, as a TypeError.
    if (!(error instanceof TypeError)) throw fileError(`write ${partial}`, error);
    const cause = error instanceof Error && error.cause !== undefined ? messageOf(error.cause) : messageOf(error);
    throw new TshyveError('image', `Cannot download ${url.href}: ${cause}. Check the url and the network.`, {
      cause: error,
    });
  } finally {
    clearTimeout(timer);
    await file?.close();
  }
}
