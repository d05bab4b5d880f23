/**
 * The tests below this folder need a host with nested virtualization and Debian's stock kernels in /opt/lab: the lab
 * machine. `test/lab/run.sh` sets this variable in it.
 */
if (process.env['TSHYVE_LAB'] !== '1') {
  throw new Error('These tests run in the lab machine: use test/lab/test.sh.');
}

/** The kernels that machine/stock-kernels.txt lists, or the one of them that LAB_KERNEL names. */
export const kernels = ['cloud-6.1', 'generic-6.1', 'cloud-6.12'].filter((name) =>
  [name, undefined].includes(process.env['LAB_KERNEL']),
);

/** True where the lab's tests run beside others, by `test.sh --short`: what says little more is left out. */
export const short = process.env['LAB_SHORT'] === '1';
