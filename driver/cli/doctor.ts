import { TshyveError, exists, messageOf, packageRoot, readManifest } from '../base/index.js';
import { hypervisorNames, selectHypervisor } from '../hypervisor/index.js';
import { join } from 'node:path';

/** `tshyve doctor`: what this host offers, and what to do about what it lacks. */
export async function doctor(): Promise<void> {
  let usable = false;
  const say = (mark: string, text: string) => process.stdout.write(`${mark} ${text}\n`);
  for (const name of hypervisorNames) {
    try {
      const probe = await (await selectHypervisor(name)).probe();
      usable ||= probe.usable;
      const accelerator = probe.accelerator === undefined ? '' : `, accelerator ${probe.accelerator}`;
      say(probe.usable ? 'ok  ' : 'FAIL', `hypervisor ${name} ${probe.version ?? ''}${accelerator}`);
      for (const note of probe.notes) say('    ', note);
    } catch (error) {
      say('FAIL', `hypervisor ${name}: ${messageOf(error)}`);
    }
  }
  for (const image of readManifest().images) {
    if (image.file === undefined) continue;
    const present = await exists(join(packageRoot(), image.file));
    say(present ? 'ok  ' : 'FAIL', `guest image ${image.architecture}${present ? '' : ': build it with iso/build.sh'}`);
  }
  if (!usable) throw new TshyveError('precondition', 'No hypervisor is usable here; the lines above say what to do.');
}
