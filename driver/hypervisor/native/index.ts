import { readManifest } from '../../base/index.js';
import type { Extras, Hypervisor, LaunchOptions, ProbeResult, VirtualMachine } from '../hypervisor.js';
import { onlyOnMac } from '../only-on-mac.js';
import { whyNoShares } from '../virtiofsd.js';
import type { VmSpec } from '../vm-spec.js';
import { nativeAccelerator } from './accelerator.js';
import { loadAddon } from './addon.js';
import { asSentence } from './errors.js';
import { launchNative } from './native-machine.js';
import { probeNative } from './probe.js';

export { probeNative };

/** The core itself versions each device's state, and refuses what it does not know; on a Mac, macOS does. */
const STATE_VERSION = process.platform === 'darwin' ? 'Virtualization.framework 1' : 'native core 1';

/** Our own core on the host's hypervisor interface, in this process. */
export const native: Hypervisor = {
  name: 'native',

  async probe(): Promise<ProbeResult> {
    const probed = await probeNative();
    if ('missing' in probed) return { hypervisor: 'native', usable: false, notes: [probed.missing] };
    const { version } = readManifest();
    if (!probed.hardwareSpeed) {
      return { hypervisor: 'native', usable: false, version, notes: [asSentence(probed.reason)] };
    }
    return {
      hypervisor: 'native',
      usable: true,
      accelerator: nativeAccelerator,
      version,
      stateVersion: STATE_VERSION,
      notes: [],
    };
  },

  async lacks(extras: Extras): Promise<readonly string[]> {
    // There the core itself knows what this version of macOS and this Mac have.
    if (process.platform === 'darwin') return [];
    const found: string[] = [];
    if (extras.rosetta) found.push(onlyOnMac('Rosetta (--tshyve-rosetta)'));
    if (extras.bridged) found.push(onlyOnMac('A bridged network'));
    if (extras.shares) found.push((await whyNoShares()) ?? '');
    if (extras.firmware) {
      found.push('The native core boots kernels, not firmware, on Linux: use --tshyve-hypervisor qemu.');
    }
    if (extras.nestedVirtualization) {
      found.push('The native core shows no virtualization to its guests on Linux: use --tshyve-hypervisor qemu.');
    }
    return found.filter((sentence) => sentence !== '');
  },

  launch(spec: VmSpec, options: LaunchOptions): Promise<VirtualMachine> {
    return launchNative(loadAddon(), spec, options);
  },
};
