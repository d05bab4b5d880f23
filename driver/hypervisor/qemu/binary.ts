import { access, constants, realpath } from 'node:fs/promises';
import { delimiter, join } from 'node:path';

import coerce from 'semver/functions/coerce.js';
import lt from 'semver/functions/lt.js';

import { TshyveError, readManifest, run } from '../../base/index.js';
import type { Architecture } from './arguments.js';

/** A QEMU and what it can be. */
export interface QemuProgram {
  readonly path: string;
  readonly architecture: Architecture;
}

const hostArchitecture: Architecture = process.arch === 'arm64' ? 'aarch64' : 'x86_64';

/** @returns the QEMU for guests of this host's architecture, or of another one, with its absolute path; or undefined */
export async function findQemu(
  env: NodeJS.ProcessEnv = process.env,
  architecture = hostArchitecture,
): Promise<QemuProgram | undefined> {
  for (const folder of (env['PATH'] ?? '').split(delimiter)) {
    if (folder === '') continue;
    const path = join(folder, `qemu-system-${architecture}`);
    try {
      await access(path, constants.X_OK);
      return { path: await realpath(path), architecture };
    } catch {
      // Not here; the next folder may have it.
    }
  }
  return undefined;
}

const debianPackages = { x86_64: 'qemu-system-x86', aarch64: 'qemu-system-arm' } as const;

/** The sentence for a host without QEMU. */
export function qemuMissing(): TshyveError {
  const fix =
    process.platform === 'darwin' ? 'brew install qemu' : `apt-get install ${debianPackages[hostArchitecture]}`;
  return new TshyveError(
    'precondition',
    `qemu-system-${hostArchitecture} was not found on the PATH. Install it, e.g. with "${fix}".`,
  );
}

/** @returns e.g. `7.2.19` */
export async function qemuVersion(path: string, signal?: AbortSignal): Promise<string> {
  const result = await run(path, ['--version'], { timeoutMs: 10_000, ...(signal === undefined ? {} : { signal }) });
  const version = /version (\d+\.\d+(?:\.\d+)?)/.exec(result.stdout)?.[1];
  if (version === undefined) {
    throw new TshyveError(
      'hypervisor',
      `${path} --version does not say which version it is: ${result.stderr.slice(0, 200)}`,
    );
  }
  return version;
}

/**
 * The oldest QEMU of plugin-manifest.json: JSON forms of -netdev and -device came with 6.0 and 6.2.
 * @returns a sentence when this version is older
 */
export function versionFinding(version: string): string | undefined {
  const minimum = readManifest().hypervisors.find((known) => known.name === 'qemu')?.minimumVersion;
  const found = coerce(version);
  if (minimum === undefined || found === null || !lt(found, minimum)) return undefined;
  return `QEMU ${version} is too old: ${minimum} or newer is needed. Upgrade it.`;
}
