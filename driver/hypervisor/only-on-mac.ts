/** The sentence for what only Virtualization.framework can do. */
export function onlyOnMac(what: string): string {
  return process.platform === 'darwin'
    ? `${what} takes Apple's hypervisor: use --tshyve-hypervisor native.`
    : `${what} is only possible on a Mac, on Apple's hypervisor: leave it out.`;
}
