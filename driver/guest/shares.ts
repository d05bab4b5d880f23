import { TshyveError } from '../base/index.js';
import { shellQuote } from './shell.js';
import type { GuestSession } from './ssh-session.js';

const TIMEOUT_MS = 30_000;

/**
 * Sees to it that shared folders are mounted: our image does that at each boot, other images do not.
 * @throws TshyveError `guest` that names the folder and what the guest said
 */
export async function mountShares(
  session: GuestSession,
  shares: readonly { readonly tag: string; readonly guestDirectory: string; readonly readOnly: boolean }[],
): Promise<void> {
  if (shares.length === 0) return;
  const script = shares.map(({ tag, guestDirectory, readOnly }) => {
    const folder = shellQuote(guestDirectory);
    const mount = `sudo -n mkdir -p ${folder} && sudo -n mount -t virtiofs -o ${readOnly ? 'ro' : 'rw'} ${tag} ${folder}`;
    return `mountpoint -q ${folder} || { ${mount}; } || { echo ${folder}; exit 1; }`;
  });
  const { code, stdout, stderr } = await session.execute(script.join('\n'), { timeoutMs: TIMEOUT_MS });
  if (code === 0) return;
  throw new TshyveError(
    'guest',
    `The guest does not mount ${stdout.trim()}: ${stderr.trim()}. It takes a kernel with virtiofs; leave --tshyve-share out with this image.`,
  );
}
