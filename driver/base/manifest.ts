import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { TshyveError } from './errors.js';

/** The parts of plugin-manifest.json that are used at run time; its whole shape is in plugin-manifest.schema.json. */
export interface Manifest {
  readonly version: string;
  readonly images: readonly ManifestImage[];
}

export interface ManifestImage {
  readonly architecture: string;
  /** Path relative to the package. */
  readonly file?: string;
  readonly url?: string;
  readonly sha256?: string;
}

/** The folder of this package: the one that holds plugin-manifest.json, above the running code. */
export function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  for (;;) {
    if (existsSync(join(folder, 'plugin-manifest.json'))) return folder;
    const parent = dirname(folder);
    if (parent === folder) {
      throw new TshyveError(
        'internal',
        'plugin-manifest.json is missing from this installation. Install tshyve again.',
      );
    }
    folder = parent;
  }
}

/** Reads the manifest of this installation. @throws TshyveError `internal` when it is damaged */
export function readManifest(): Manifest {
  const path = join(packageRoot(), 'plugin-manifest.json');
  const value = JSON.parse(readFileSync(path, 'utf8')) as Partial<Manifest>;
  if (typeof value.version !== 'string' || !Array.isArray(value.images)) {
    throw new TshyveError('internal', `${path} is damaged. Install tshyve again.`);
  }
  return { version: value.version, images: value.images };
}
