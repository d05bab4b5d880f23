import { accessSync, constants, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import {
  type HypervisorName,
  type VirtualMachine,
  type VmSpec,
  selectHypervisor,
} from '../../../driver/hypervisor/index.js';
import { elf } from './tiny-guest.js';

const root = resolve(import.meta.dirname, '../../..');

function nativeUsable(): boolean {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return existsSync(join(root, 'prebuilds/linux-x64/tshyve.glibc.node'));
  } catch {
    return false;
  }
}

/** The native core runs tiny guests on any /dev/kvm, whatever its speed. CI has one. */
export const nativeCannotRun = !nativeUsable() && process.env['CI'] !== 'true';
if (nativeCannotRun) console.warn('Some tests need /dev/kvm and the native core (npm run build:native)');

/** Launches tiny guests on a backend, and ends what a failed test left. */
export class Bench {
  readonly folder = mkdtempSync(join(tmpdir(), 'tsb-'));
  readonly #hypervisor: HypervisorName;
  readonly #running = new Set<VirtualMachine>();
  #kernels = 0;

  constructor(hypervisor: HypervisorName) {
    this.#hypervisor = hypervisor;
  }

  /** One CPU, the least memory, no disk. */
  spec(kernel: string): VmSpec {
    return {
      name: 'tiny',
      uuid: '00000000-0000-8000-8000-000000000001',
      cpus: 1,
      memoryMiB: 64,
      boot: { kernel, initrd: '', commandLine: '' },
      disks: [],
      network: { mode: 'user', mac: '02:00:00:00:00:01', hostname: 'tiny', hostAddress: '127.64.99.1', forwards: [] },
    };
  }

  /** @param options.change what the machine has beyond the least */
  async launch(
    code: Parameters<typeof elf>,
    options: { restoreFrom?: string; kernel?: string; change?: (spec: VmSpec) => VmSpec } = {},
  ) {
    const kernel = options.kernel ?? join(this.folder, `kernel-${String(this.#kernels++)}`);
    if (options.kernel === undefined) writeFileSync(kernel, elf(...code));
    const spec = options.change?.(this.spec(kernel)) ?? this.spec(kernel);
    let text = '';
    const log: string[] = [];
    const steps: string[] = [];
    const hypervisor = await selectHypervisor(this.#hypervisor);
    const machine = await hypervisor.launch(spec, {
      runDirectory: this.folder,
      log: { info: (line) => log.push(line), debug: (line) => log.push(line) },
      onConsole: (bytes) => {
        text += bytes.toString('latin1');
      },
      beforeStart: () => {
        steps.push(text);
        return Promise.resolve();
      },
      ...(options.restoreFrom === undefined ? {} : { restoreFrom: options.restoreFrom }),
    });
    this.#running.add(machine);
    void machine.exited.then(() => this.#running.delete(machine));
    return { machine, kernel, log, console: () => text, beforeStart: steps };
  }

  async close(): Promise<void> {
    await Promise.all([...this.#running].map((machine) => machine.kill()));
    rmSync(this.folder, { recursive: true, force: true });
  }
}
