import { shellQuote } from '../guest/index.js';
import type { TshyveDriver } from '../machine/index.js';
import type { Context } from './context.js';

/** Where a machine answers over SSH. */
export interface SshAccess {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  /** Path of the private key. */
  readonly key: string;
}

/** The flags of minikube's `ssh` driver (minikube 1.38, cmd/minikube/cmd/start_flags.go) for one machine. */
export function minikubeFlags(profile: string, { host, port, user, key }: SshAccess): string[] {
  const flags = [`--profile=${profile}`, '--driver=ssh', `--ssh-ip-address=${host}`, `--ssh-port=${String(port)}`];
  return [...flags, `--ssh-user=${user}`, `--ssh-key=${key}`];
}

/** @throws TshyveError `not-running` */
export async function sshAccess(driver: TshyveDriver): Promise<SshAccess> {
  const [host, port] = await Promise.all([driver.getIP(), driver.getSSHPort()]);
  return { host, port, user: driver.getSSHUsername(), key: driver.getSSHKeyPath() };
}

/** `tshyve minikube args NAME`: one line for a shell. */
export async function printMinikubeArgs({ store }: Context, name: string): Promise<void> {
  const flags = minikubeFlags(name, await sshAccess(await store.load(name)));
  process.stdout.write(`${flags.map(shellQuote).join(' ')}\n`);
}
