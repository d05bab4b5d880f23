import { TshyveError, exists, messageOf, packageRoot, readManifest } from '../base/index.js';
import {
  type HypervisorName,
  type ProbeResult,
  chooseHypervisor,
  hypervisorNames,
  selectHypervisor,
} from '../hypervisor/index.js';
import { join } from 'node:path';

/** `tshyve doctor`: what this host offers, and what to do about what it lacks. */
export async function doctor(): Promise<void> {
  const say = (mark: string, text: string) => process.stdout.write(`${mark} ${text}\n`);
  const probes = await Promise.all(hypervisorNames.map(probe));
  const usable = probes.some((result) => result.usable);
  for (const { hypervisor, version, accelerator, notes, ...result } of probes) {
    const words = [`hypervisor ${hypervisor}`, version ?? '', accelerator === undefined ? '' : `with ${accelerator}`];
    // One backend is enough.
    say(result.usable ? 'ok  ' : usable ? 'no  ' : 'FAIL', words.filter((word) => word !== '').join(' '));
    for (const note of notes) say('    ', note);
  }
  const auto = await chooseHypervisor('auto');
  if (usable) say('ok  ', `hypervisor auto is ${auto.hypervisor.name}: ${auto.reason}`);
  for (const image of readManifest().images) {
    if (image.file === undefined) continue;
    const present = await exists(join(packageRoot(), image.file));
    say(present ? 'ok  ' : 'FAIL', `guest image ${image.architecture}${present ? '' : ': build it with iso/build.sh'}`);
  }
  if (!usable) throw new TshyveError('precondition', 'No hypervisor is usable here; the lines above say what to do.');
}

async function probe(name: HypervisorName): Promise<ProbeResult> {
  try {
    return await (await selectHypervisor(name)).probe();
  } catch (error) {
    return { hypervisor: name, usable: false, notes: [messageOf(error)] };
  }
}
