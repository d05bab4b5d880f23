/** What the native core runs machines by on this platform: KVM, or Virtualization.framework. */
export const nativeAccelerator = process.platform === 'darwin' ? 'vz' : 'kvm';
