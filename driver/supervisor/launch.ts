import { startDetached } from '../base/index.js';
import { supervisorPlace } from './place.js';
import type { LaunchRequest } from './types.js';

const LAUNCH_TIMEOUT_MS = 60_000;
/** Reading all memory of a large machine from a slow disk takes minutes. */
const RESUME_TIMEOUT_MS = 900_000;

/**
 * Starts the supervisor of a machine in a session of its own and resolves once the guest runs.
 * @throws TshyveError whatever kept it from launching, `busy` when the machine is already running
 */
export async function startSupervisor(request: LaunchRequest, signal: AbortSignal): Promise<void> {
  await startDetached({
    program: 'tshyve-vmm',
    args: ['--launch'],
    log: supervisorPlace(request).supervisorLog,
    input: JSON.stringify(request),
    what: 'the supervisor to launch the machine',
    timeoutMs: request.resume === true ? RESUME_TIMEOUT_MS : LAUNCH_TIMEOUT_MS,
    signal,
  });
}
