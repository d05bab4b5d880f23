import { TshyveError } from '../base/index.js';
import { type Extras, type Hypervisor, type HypervisorName, hypervisorNames } from './hypervisor.js';
import { type Choice, preferNative } from './prefer-native.js';
import type { VmSpec } from './vm-spec.js';
import type { SwitchEvent, SwitchSettings, UserSwitch } from './native/user-switch.js';

export {
  type Extras,
  type Hypervisor,
  type HypervisorName,
  type LaunchOptions,
  type ProbeResult,
  type VirtualMachine,
  type VmExit,
  hypervisorNames,
} from './hypervisor.js';
export type { SwitchEvent, SwitchMachine, UserSwitch } from './native/user-switch.js';
export type { Choice } from './prefer-native.js';
export { ADDED, ForwardTable, type HostPort, PUBLISHED, type PortBinder, isAt } from './forwards.js';
export {
  type BridgedNetworkSpec,
  type DiskSpec,
  type LinuxBoot,
  type NatNetworkSpec,
  type NetworkSpec,
  type PortForward,
  type PortForwardSpec,
  type Protocol,
  type ServiceAddress,
  type ServiceSpec,
  type ShareSpec,
  type SocketFraming,
  type SocketNetworkSpec,
  type SwitchNetworkSpec,
  type NamespaceNetworkSpec,
  type TapNetworkSpec,
  VSOCK_MAX_PORT,
  type VmSpec,
  portForwardSchema,
  protocols,
  vmSpecSchema,
} from './vm-spec.js';

/**
 * Makes the switch of a user-mode network in this process; all its machines' frames and connections go through it.
 * @throws TshyveError `precondition` when the native core or libslirp is missing
 */
export async function openUserSwitch(
  settings: SwitchSettings,
  onEvent: (event: SwitchEvent) => void,
): Promise<UserSwitch> {
  const { openSwitch } = await import('./native/user-switch.js');
  return openSwitch(settings, onEvent);
}

/** @throws TshyveError `precondition` that says why there can be no user-mode networks of several machines here */
export async function requireUserSwitch(): Promise<void> {
  const { requireSwitch } = await import('./native/user-switch.js');
  requireSwitch();
}

/** What a machine needs beyond the ordinary. */
export function extrasOf(spec: VmSpec): Extras {
  return {
    shares: (spec.shares ?? []).length > 0,
    rosetta: spec.rosettaTag !== undefined,
    nestedVirtualization: spec.nestedVirtualization === true,
    bridged: spec.network.mode === 'bridged',
    firmware: spec.firmware !== undefined,
    vsock: spec.vsock !== undefined,
  };
}

/** @throws TshyveError `precondition` that names all that a machine needs and this backend cannot give here */
export async function requireExtras(hypervisor: Hypervisor, extras: Extras): Promise<void> {
  const lacking = await hypervisor.lacks(extras);
  if (lacking.length > 0) throw new TshyveError('precondition', lacking.join(' '));
}

const backends: Record<HypervisorName, () => Promise<Hypervisor>> = {
  native: async () => (await import('./native/index.js')).native,
  qemu: async () => (await import('./qemu/index.js')).qemu,
};

/**
 * The backend of this name; `auto` is what the environment variable TSHYVE_HYPERVISOR says, else the first one that is
 * usable here.
 * @throws TshyveError `usage` for an unknown name
 */
export async function selectHypervisor(name: string): Promise<Hypervisor> {
  return (await chooseHypervisor(name)).hypervisor;
}

/** As `selectHypervisor`, with the reason. */
export async function chooseHypervisor(name: string): Promise<Choice> {
  const override = process.env['TSHYVE_HYPERVISOR'] ?? '';
  const wanted = name === 'auto' && override !== '' ? override : name;
  if (wanted === 'auto') return chooseUsable();
  const known = hypervisorNames.find((candidate) => candidate === wanted);
  if (known === undefined) {
    throw new TshyveError(
      'usage',
      `There is no hypervisor "${wanted}": give auto or one of ${hypervisorNames.join(', ')}.`,
    );
  }
  const who = wanted === name ? 'The machine asks' : 'TSHYVE_HYPERVISOR asks';
  return { hypervisor: await backends[known](), reason: `${who} for ${known}.`, notes: [] };
}

/** The native core where it runs at hardware speed, else QEMU, which also has an emulator. */
async function chooseUsable(): Promise<Choice> {
  return preferNative(await backends.native(), backends.qemu, process.platform);
}
