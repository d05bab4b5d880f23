import { access, constants, mkdir, realpath, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import * as v from 'valibot';

import {
  TshyveError,
  copyFileAtomic,
  exists,
  fileError,
  findProgram,
  messageOf,
  packageRoot,
  run,
} from '../base/index.js';
import type { Context } from './context.js';

export interface MinikubeInstallOptions {
  /** A minikube with our driver; else the one that was built or came with this installation. */
  readonly from?: string;
  /** The folder that it goes to; else that of the user's minikube, or ~/.local/bin. */
  readonly to?: string;
}

/** Beside a minikube, so that both can be used and neither replaces the other. */
const NAME = 'minikube-tshyve';
/** What integrations/minikube/build.sh gives to the linker as `gitCommitID`. */
const COMMIT = 'tshyve';

const versionSchema = v.object({ minikubeVersion: v.string(), commit: v.string() });

/** `tshyve minikube install`: puts the minikube that has our driver beside the user's own. */
export async function installMinikube({ operation }: Context, options: MinikubeInstallOptions): Promise<void> {
  const source = options.from === undefined ? await builtMinikube() : resolve(options.from);
  const version = await ourMinikube(source);
  if (version === undefined) {
    throw new TshyveError(
      'precondition',
      `${source} is not a minikube with the driver tshyve. Build one with integrations/minikube/build.sh.`,
    );
  }
  const path = process.env['PATH'] ?? '';
  const own = await findProgram('minikube');
  const folder = options.to === undefined ? await folderBeside(own) : resolve(options.to);
  const target = join(folder, NAME);
  if (await exists(target)) {
    // A link to the source is not ours to replace by what it points to.
    if ((await realpath(target)) === (await realpath(source))) {
      operation.log.info(`${target} is ${source} already`);
      return;
    }
    if ((await ourMinikube(target)) === undefined) {
      throw new TshyveError(
        'already-exists',
        `${target} is something else, and stays as it is. Move it away, or name another folder by --to.`,
      );
    }
  }
  await putProgram(source, target);
  operation.log.info(`minikube ${version} with the driver tshyve is ${target}`);
  if (own !== undefined) operation.log.info(`${own} stays as it is`);
  if (!path.split(delimiter).includes(folder)) operation.log.info(`${folder} is not on the PATH yet`);
  process.stdout.write(`${target}\n`);
}

/** @throws TshyveError `not-found` */
async function builtMinikube(): Promise<string> {
  const places = [join(packageRoot(), 'bin', NAME), join(packageRoot(), 'integrations/minikube/out', NAME)];
  for (const place of places) if (await exists(place)) return place;
  throw new TshyveError(
    'not-found',
    `This installation has no ${NAME} (looked at ${places.join(' and ')}). Build it in a checkout of tshyve with integrations/minikube/build.sh, which takes Go, and name it by --from if it is another checkout.`,
  );
}

/**
 * The version of a minikube that has our driver; undefined for any other program.
 * @throws TshyveError `not-found` when there is no such file
 */
async function ourMinikube(program: string): Promise<string | undefined> {
  const found = await stat(program).catch((error: unknown) => {
    throw new TshyveError('not-found', `There is no ${program}: ${messageOf(error)}`);
  });
  if (!found.isFile()) return undefined;
  try {
    const { code, stdout } = await run(program, ['version', '--output', 'json'], { timeoutMs: 30_000 });
    const told = v.parse(versionSchema, JSON.parse(stdout));
    return code === 0 && told.commit === COMMIT ? told.minikubeVersion.replace(/^v/, '') : undefined;
  } catch {
    // Not executable, for another processor, or no minikube.
    return undefined;
  }
}

/** The folder of the user's minikube where the user may write there, else the user's own folder for programs. */
async function folderBeside(minikube: string | undefined): Promise<string> {
  const own = join(homedir(), '.local/bin');
  if (minikube === undefined) return own;
  const folder = dirname(minikube);
  return access(folder, constants.W_OK).then(
    () => folder,
    () => own,
  );
}

/** In one step, so that a minikube that runs, or a shell that looks, meets the old file or the new one. */
async function putProgram(source: string, target: string): Promise<void> {
  const action = `install ${target}`;
  await mkdir(dirname(target), { recursive: true }).catch((error: unknown) => {
    throw fileError(action, error);
  });
  await copyFileAtomic(source, target, action, 0o755);
}
