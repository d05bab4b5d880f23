import { access, constants, stat } from 'node:fs/promises';
import { delimiter, join } from 'node:path';

/**
 * Looks for a program as a shell does, execvp(3), but in absolute folders only.
 * @param further folders after those of the PATH
 * @returns its absolute path, or undefined
 */
export async function findProgram(
  name: string,
  env: NodeJS.ProcessEnv = process.env,
  further: readonly string[] = [],
): Promise<string | undefined> {
  for (const folder of [...(env['PATH'] ?? '').split(delimiter), ...further]) {
    if (!folder.startsWith('/')) continue;
    const path = join(folder, name);
    try {
      await access(path, constants.X_OK);
      if ((await stat(path)).isFile()) return path;
    } catch {
      // Not here; the next folder may have it.
    }
  }
  return undefined;
}
