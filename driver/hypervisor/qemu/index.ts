import coerce from 'semver/functions/coerce.js';
import lt from 'semver/functions/lt.js';

import { TshyveError } from '../../base/index.js';
import type { Extras, Hypervisor, LaunchOptions, ProbeResult, VirtualMachine } from '../hypervisor.js';
import { onlyOnMac } from '../only-on-mac.js';
import { whyNoShares } from '../virtiofsd.js';
import type { VmSpec } from '../vm-spec.js';
import type { Accelerator } from './arguments.js';
import { type QemuProgram, findQemu, qemuMissing, qemuVersion, versionFinding } from './binary.js';
import { findFirmware, firmwareMissing } from './firmware.js';
import { probeKvm } from './kvm-probe.js';
import { whyNotNested } from './nested.js';
import { launchQemu } from './qemu-machine.js';

const DATAGRAMS_SINCE = '7.2.0';

/** QEMU over QMP, with the best accelerator this host has. `TSHYVE_ACCEL` (kvm, hvf, tcg) overrides the choice. */
export const qemu: Hypervisor = {
  name: 'qemu',

  async probe(options: { signal?: AbortSignal } = {}): Promise<ProbeResult> {
    const found = await findQemu();
    if (found === undefined) return { hypervisor: 'qemu', usable: false, notes: [qemuMissing().message] };
    const version = await qemuVersion(found.path, options.signal);
    const tooOld = versionFinding(version);
    if (tooOld !== undefined) return { hypervisor: 'qemu', usable: false, version, notes: [tooOld] };
    const { accelerator, notes } = await chooseAccelerator(found, options.signal);
    return { hypervisor: 'qemu', usable: true, accelerator, version, stateVersion: `QEMU ${version}`, notes };
  },

  async lacks(extras: Extras): Promise<readonly string[]> {
    const found: string[] = [];
    if (extras.rosetta) found.push(onlyOnMac('Rosetta (--tshyve-rosetta)'));
    if (extras.bridged) found.push(onlyOnMac('A bridged network'));
    if (extras.vsock) {
      found.push('With QEMU there are no vsock ports (--tshyve-vsock-port): use --tshyve-hypervisor native.');
    }
    if (extras.shares) found.push((await whyNoShares()) ?? '');
    const program = await findQemu();
    // That QEMU itself is missing, the probe says.
    if (program === undefined) return found.filter((sentence) => sentence !== '');
    if (extras.nestedVirtualization) {
      const { accelerator } = await chooseAccelerator(program);
      found.push((await whyNotNested(program.architecture, accelerator)) ?? '');
    }
    if (extras.firmware && (await findFirmware(program)) === undefined)
      found.push(firmwareMissing(program.architecture));
    return found.filter((sentence) => sentence !== '');
  },

  async launch(spec: VmSpec, options: LaunchOptions): Promise<VirtualMachine> {
    const found = await findQemu();
    if (found === undefined) throw qemuMissing();
    if (spec.network.mode === 'switch') await requireDatagrams(found.path, options.signal);
    const { accelerator, notes } = await chooseAccelerator(found, options.signal);
    for (const note of notes) options.log.debug(note);
    return launchQemu(found, accelerator, spec, options);
  },
};

/** @throws TshyveError `precondition` for a QEMU that has no -netdev dgram */
async function requireDatagrams(path: string, signal?: AbortSignal): Promise<void> {
  const version = await qemuVersion(path, signal);
  if (!lt(coerce(version) ?? '0.0.0', DATAGRAMS_SINCE)) return;
  throw new TshyveError(
    'precondition',
    `QEMU ${version} is too old for a network of several machines: ${DATAGRAMS_SINCE} or newer is needed. Upgrade it, or use --tshyve-network user.`,
  );
}

async function chooseAccelerator(
  found: QemuProgram,
  signal?: AbortSignal,
): Promise<{ accelerator: Accelerator; notes: string[] }> {
  const wanted = process.env['TSHYVE_ACCEL'] ?? '';
  if (wanted === 'kvm' || wanted === 'hvf' || wanted === 'tcg') {
    return { accelerator: wanted, notes: [`TSHYVE_ACCEL asks for ${wanted}.`] };
  }
  if (wanted !== '') throw new TshyveError('usage', `TSHYVE_ACCEL is "${wanted}": give kvm, hvf or tcg.`);
  if (process.platform === 'darwin') return { accelerator: 'hvf', notes: [] };
  const kvm = await probeKvm(found, signal);
  if (kvm.usable) return { accelerator: 'kvm', notes: [] };
  return { accelerator: 'tcg', notes: [`Using slow software emulation (TCG): ${kvm.reason}.`] };
}
