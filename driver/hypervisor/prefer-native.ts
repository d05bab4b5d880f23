import type { Hypervisor } from './hypervisor.js';

/** A backend that was asked for, and why it is this one. */
export interface Choice {
  readonly hypervisor: Hypervisor;
  /** A sentence. */
  readonly reason: string;
  /** What kept better ones from being chosen, a sentence each. */
  readonly notes: readonly string[];
}

/**
 * The native core (KVM, or macOS' Virtualization.framework) where it runs at hardware speed, else QEMU. On a Mac without
 * QEMU it is the native core all the same: its probe says what it lacks, which is the better advice there.
 */
export async function preferNative(
  native: Hypervisor,
  loadQemu: () => Promise<Hypervisor>,
  platform: NodeJS.Platform,
): Promise<Choice> {
  const probe = await native.probe();
  if (probe.usable) return { hypervisor: native, reason: 'It runs at hardware speed here.', notes: [] };
  const qemu = await loadQemu();
  if (platform === 'darwin' && !(await qemu.probe()).usable) {
    return { hypervisor: native, reason: 'It is the one for this platform.', notes: probe.notes };
  }
  return { hypervisor: qemu, reason: 'The native core is not usable here.', notes: probe.notes };
}
