import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import * as v from 'valibot';

import { TshyveError, messageOf } from './errors.js';

const imageSchema = v.object({
  architecture: v.string(),
  /** Path relative to the package. */
  file: v.exactOptional(v.string()),
  url: v.exactOptional(v.string()),
  sha256: v.exactOptional(v.string()),
});

/** The parts of plugin-manifest.json that are used at run time; its whole shape is in plugin-manifest.schema.json. */
const manifestSchema = v.object({
  version: v.string(),
  images: v.array(imageSchema),
  hypervisors: v.array(v.object({ name: v.string(), minimumVersion: v.exactOptional(v.string()) })),
  /** Client programs and the versions that are known to work, as semver ranges. */
  clients: v.record(v.string(), v.string()),
});
export type Manifest = Readonly<v.InferOutput<typeof manifestSchema>>;
export type ManifestImage = Readonly<v.InferOutput<typeof imageSchema>>;

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
  try {
    return v.parse(manifestSchema, JSON.parse(readFileSync(path, 'utf8')));
  } catch (error) {
    throw new TshyveError('internal', `${path} is damaged: ${messageOf(error)}. Install tshyve again.`, {
      cause: error,
    });
  }
}

/** Of the guests of this host, in Debian's words. */
export const guestArchitecture = process.arch === 'arm64' ? 'arm64' : 'amd64';

/** The guest image of this release for this host; undefined: it has none. */
export function releaseImage(): ManifestImage | undefined {
  return readManifest().images.find(({ architecture }) => architecture === guestArchitecture);
}
