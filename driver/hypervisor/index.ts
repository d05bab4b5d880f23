import { TshyveError } from '../base/index.js';
import { type Hypervisor, type HypervisorName, hypervisorNames } from './hypervisor.js';

export {
  type Hypervisor,
  type HypervisorName,
  type LaunchOptions,
  type ProbeResult,
  type VirtualMachine,
  type VmExit,
  hypervisorNames,
} from './hypervisor.js';
export {
  type DiskSpec,
  type LinuxBoot,
  type NetworkSpec,
  type PortForward,
  type PortForwardSpec,
  type VmSpec,
  portForwardSchema,
  vmSpecSchema,
} from './vm-spec.js';

const backends: Record<HypervisorName, () => Promise<Hypervisor>> = {
  qemu: async () => (await import('./qemu/index.js')).qemu,
};

/**
 * The backend of this name; `auto` is the first one that is usable here.
 * @throws TshyveError `usage` for an unknown name
 */
export async function selectHypervisor(name: string): Promise<Hypervisor> {
  const wanted = name === 'auto' ? hypervisorNames[0] : hypervisorNames.find((known) => known === name);
  if (wanted === undefined) {
    throw new TshyveError(
      'usage',
      `There is no hypervisor "${name}": give auto or one of ${hypervisorNames.join(', ')}.`,
    );
  }
  return backends[wanted]();
}
