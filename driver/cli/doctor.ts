import { join } from 'node:path';

import satisfies from 'semver/functions/satisfies.js';

import { TshyveError, exists, messageOf, packageRoot, readManifest, releaseImage, run } from '../base/index.js';
import {
  type HypervisorName,
  type ProbeResult,
  chooseHypervisor,
  hypervisorNames,
  selectHypervisor,
} from '../hypervisor/index.js';
import { diagnose, readMacFacts } from '../network/index.js';

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
  if (process.platform === 'darwin') await macNetwork(say);
  const image = releaseImage();
  if (image?.file !== undefined) {
    const present = await exists(join(packageRoot(), image.file));
    say(
      present ? 'ok  ' : 'FAIL',
      `guest image ${image.architecture}${present ? '' : `: build it with "iso/build.sh --arch ${image.architecture}" on Debian or Ubuntu`}`,
    );
  }
  for (const [program, range] of Object.entries(readManifest().clients)) {
    const version = await clientVersion(program);
    if (version === undefined) continue;
    const known = satisfies(version, range, { includePrerelease: true });
    say(
      known ? 'ok  ' : 'note',
      `client ${program} ${version}${known ? '' : `: not tested with tshyve (${range} is)`}`,
    );
  }
  if (!usable) throw new TshyveError('precondition', 'No hypervisor is usable here; the lines above say what to do.');
}

/** What would keep machines on macOS' own network from their addresses. */
async function macNetwork(say: (mark: string, text: string) => void): Promise<void> {
  const findings = diagnose(await readMacFacts());
  if (findings.length === 0) say('ok  ', 'network nat: nothing is known to be in the way');
  for (const { cause, fix } of findings) {
    say('note', cause);
    say('    ', fix);
  }
}

async function probe(name: HypervisorName): Promise<ProbeResult> {
  try {
    return await (await selectHypervisor(name)).probe();
  } catch (error) {
    return { hypervisor: name, usable: false, notes: [messageOf(error)] };
  }
}

/** @returns undefined when the program is not on the PATH or does not say */
async function clientVersion(program: string): Promise<string | undefined> {
  const result = await run(program, ['--version'], { timeoutMs: 10_000 }).catch(() => undefined);
  return /version v?([^\s,]+)/.exec(result?.stdout ?? '')?.[1];
}
