import { readFile } from 'node:fs/promises';

/**
 * Host ports to try for a machine's sshd: the standard one where it may be bound, one that is easy to remember, any.
 * Source: ip_unprivileged_port_start in Linux' ip-sysctl documentation.
 */
export async function sshPorts(): Promise<number[]> {
  return (await mayBind(22)) ? [22, 2222, 0] : [2222, 0];
}

/** Docker over TLS: clients insist on 2376 wherever it can be had. */
export const dockerPorts: readonly number[] = [2376, 0];

async function mayBind(port: number): Promise<boolean> {
  if (process.platform !== 'linux') return false;
  if (process.geteuid?.() === 0) return true;
  const start = await readFile('/proc/sys/net/ipv4/ip_unprivileged_port_start', 'utf8').catch(() => '1024');
  return port >= Number(start);
}
