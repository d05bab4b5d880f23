import { join } from 'node:path';

/** Where everything of one machine lives. All paths are absolute. */
export interface MachineLayout {
  readonly directory: string;
  /** Held during create, start, stop and the like, so that two clients do not work on one machine at once. */
  readonly operationLock: string;
  readonly record: string;
  readonly dataDisk: string;
  readonly privateKey: string;
  readonly publicKey: string;
  /** The fixed name that docker-machine's `upgrade` overwrites. */
  readonly iso: string;
  readonly kernel: string;
  readonly initrd: string;
  /** Of EFI firmware. */
  readonly variableStore: string;
  readonly consoleLog: string;
  /** Folder of the unix sockets that are ports of the machine's vsock. */
  readonly vsock: string;
  extraDisk(index: number): string;
}

/**
 * libmachine's machine folder. Disks are called `*.img` because rancher-machine packs the folder into a secret and
 * leaves out just `*.iso`, `*.img` and the like.
 */
export function machineLayout(storePath: string, machineName: string): MachineLayout {
  const directory = join(storePath, 'machines', machineName);
  return {
    directory,
    operationLock: join(directory, 'operation.lock'),
    record: join(directory, 'tshyve.json'),
    dataDisk: join(directory, 'disk.img'),
    privateKey: join(directory, 'id_ed25519'),
    publicKey: join(directory, 'id_ed25519.pub'),
    iso: join(directory, 'boot2docker.iso'),
    kernel: join(directory, 'kernel'),
    initrd: join(directory, 'initrd'),
    variableStore: join(directory, 'efi-variables.img'),
    consoleLog: join(directory, 'console.log'),
    vsock: join(directory, 'vsock'),
    extraDisk: (index) => join(directory, `extra-${String(index)}.img`),
  };
}

/** Names the client puts into the folder; all other files in it are ours to delete after a failed create. */
const clientFiles = new Set([
  'config.json',
  'config.json.bak',
  'ca.pem',
  'cert.pem',
  'key.pem',
  'server.pem',
  'server-key.pem',
  // Held by the operation that cleans up.
  'operation.lock',
]);

/** True for a file of the machine folder that belongs to the client (docker-machine, minikube). */
export function isClientFile(name: string): boolean {
  return clientFiles.has(name) || name.startsWith('config.json.tmp');
}
