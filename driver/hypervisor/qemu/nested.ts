import { readTextIfPresent } from '../../base/index.js';
import type { Accelerator, Architecture } from './arguments.js';

const modules = ['kvm_intel', 'kvm_amd'] as const;

/**
 * Whether guests can run virtual machines themselves. TCG imitates that, slowly: AMD's SVM, and Arm's EL2.
 * Source: Documentation/virt/kvm/x86/running-nested-guests.rst of Linux.
 * @returns why not, with the fix; undefined when they can
 */
export async function whyNotNested(
  architecture: Architecture,
  accelerator: Accelerator,
  parameters = '/sys/module',
): Promise<string | undefined> {
  if (accelerator === 'tcg') return undefined;
  if (accelerator === 'hvf') {
    return 'QEMU gives nested virtualization on a Mac to no guest: use --tshyve-hypervisor native (macOS 15, M3 or later).';
  }
  if (architecture === 'aarch64') {
    return 'KVM on this processor gives nested virtualization to no guest: leave --tshyve-nested out.';
  }
  for (const module of modules) {
    const value = (await readTextIfPresent(`${parameters}/${module}/parameters/nested`))?.trim();
    if (value === undefined) continue;
    if (value === 'Y' || value === '1') return undefined;
    return `KVM was loaded without nested virtualization: stop all machines, then "sudo modprobe -r ${module} && sudo modprobe ${module} nested=1" (for good: "options ${module} nested=1" in /etc/modprobe.d/kvm.conf).`;
  }
  return undefined;
}
