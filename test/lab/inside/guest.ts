import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/**
 * What runs a guest: the native core by its own runner (`core`), one of tshyve's hypervisors (`native`, `qemu`), or QEMU
 * started by hand for comparison (its microvm and its q35 machine, as lean as its documentation recommends).
 */
export type Backend = 'core' | 'native' | 'qemu' | 'microvm' | 'q35';

export interface GuestOptions {
  /** A name below /opt/lab/kernels. */
  readonly kernel: string;
  readonly cpus?: number;
  readonly memoryMiB?: number;
  /** `lab.*` words for the kernel command line; see test/lab/guest/init.c. */
  readonly words?: string;
  /** Raw images, the first is vda. */
  readonly disks?: readonly string[];
  /** Folders for the guest, `share0` and so on (`native` and `qemu`). */
  readonly shares?: readonly { readonly directory: string; readonly readOnly: boolean }[];
  /** Ports of its vsock, whose sockets go into the folder (`native` only). */
  readonly vsock?: { readonly directory: string; readonly ports: readonly number[] };
  /** A user-mode network; without it QEMU's machines have none. tshyve's always have one. */
  readonly network?: boolean;
  /** `core` only: attaches to this tap instead. */
  readonly tap?: string;
}

const kernels = '/opt/lab/kernels';
/** What test/lab/guest has built: the guests' first process and the host's side of its tests. */
export const files = '/tshyve/test/lab/guest/out';
const runner = '/tshyve/test/lab/runner/out/runner.cjs';
const coreRunner = '/tshyve/test/lab/runner/out/tshyve_run';
/** `reboot=t`: QEMU's microvm ends at a triple fault. */
const commandLine = 'console=ttyS0 quiet panic=-1 reboot=t tsc=reliable net.ifnames=0';

/** A guest's initrd: the modules of its kernel, then the lab's first process. Kept for the next guest of this kernel. */
function initrdOf(kernel: string, folder: string): string {
  const path = join(folder, 'initrd');
  writeFileSync(
    path,
    Buffer.concat([readFileSync(join(kernels, kernel, 'modules.cpio')), readFileSync(join(files, 'initrd'))]),
  );
  return path;
}

/** A running guest. Everything it needs lies in a folder of its own that goes with it. */
export class Guest {
  /** All that the guest has written to its serial console. */
  console = '';
  /** What the runner or QEMU has said. */
  said = '';
  /** `performance.now()` when the process was started. */
  readonly #startedAt: number;
  /** Exit code of the process, or the signal's name. */
  readonly exited: Promise<number | string>;
  readonly #folder = mkdtempSync(join(tmpdir(), 'guest-'));
  readonly #child: ChildProcess;
  #watchers: (() => void)[] = [];
  /** When which part of the console came. */
  readonly #arrivals: { readonly at: number; readonly length: number }[] = [];
  #over = false;
  readonly backend: Backend;

  constructor(backend: Backend, options: GuestOptions) {
    this.backend = backend;
    const [program, ...args] = this.#command(options);
    this.#startedAt = performance.now();
    this.#child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    this.#child.stdout?.on('data', (bytes: Buffer) => {
      this.#arrivals.push({ at: performance.now(), length: this.console.length });
      this.console += bytes.toString('latin1');
      this.#wake();
    });
    this.#child.stderr?.on('data', (bytes: Buffer) => {
      this.said += bytes.toString();
      this.#wake();
    });
    // The guest may be gone before a line is written to it.
    this.#child.stdin?.on('error', () => undefined);
    this.exited = new Promise((settle) => {
      this.#child.on('error', (error) => {
        this.said += error.message;
        settle(error.message);
      });
      // 'close' comes after the last output.
      this.#child.on('close', (code, signal) => {
        this.#over = true;
        rmSync(this.#folder, { recursive: true, force: true });
        settle(code ?? signal ?? -1);
        this.#wake();
      });
    });
  }

  /** The process that is the virtual machine. */
  get pid(): number {
    const told = /runner: process (\d+)/.exec(this.said)?.[1];
    return told === undefined ? (this.#child.pid ?? -1) : Number(told);
  }

  /** Milliseconds from the start of the process to this text on the console; NaN when it has not come. */
  millisecondsTo(text: string): number {
    const place = this.console.indexOf(text);
    const piece = place < 0 ? undefined : this.#arrivals.findLast(({ length }) => length <= place);
    return piece === undefined ? NaN : piece.at - this.#startedAt;
  }

  /** Waits for text on the console. @throws with the console's end when the guest ends before, or time is up */
  async waitFor(pattern: RegExp, timeoutMs = 300_000): Promise<RegExpExecArray> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      const match = pattern.exec(this.console);
      if (match !== null) return match;
      const left = deadline - performance.now();
      if (this.#over || left <= 0) {
        const why = this.#over ? 'it has ended' : `${String(timeoutMs / 1000)} s are over`;
        throw new Error(
          `The guest on ${this.backend} did not say ${String(pattern)}; ${why}.\n${this.console.slice(-3000)}\n${this.said.slice(-2000)}`,
        );
      }
      await new Promise<void>((settle) => {
        const timer = setTimeout(settle, left);
        this.#watchers.push(() => {
          clearTimeout(timer);
          settle();
        });
      });
    }
  }

  /** Waits until the machine is gone by itself. */
  async end(timeoutMs = 300_000): Promise<number | string> {
    const timer = setTimeout(() => {
      this.said += `\nnot ended after ${String(timeoutMs)} ms`;
      this.kill();
    }, timeoutMs);
    const code = await this.exited;
    clearTimeout(timer);
    return code;
  }

  /** Types on the serial console (`native` and `qemu` have none to type on). */
  type(text: string): void {
    this.#child.stdin?.write(text);
  }

  /** Presses the power button (QEMU by hand has none). */
  pressPowerButton(): void {
    if (this.backend === 'core') process.kill(this.pid, 'SIGTERM');
    else this.#child.stdin?.write('power-button\n');
  }

  /** Ends the machine's process the hard way. */
  kill(): void {
    if (!this.#over && this.pid > 0) process.kill(this.pid, 'SIGKILL');
  }

  #wake(): void {
    const watchers = this.#watchers;
    this.#watchers = [];
    for (const watcher of watchers) watcher();
  }

  #command(options: GuestOptions): [string, ...string[]] {
    switch (this.backend) {
      case 'core':
        return this.#coreCommand(options);
      case 'native':
      case 'qemu':
        return this.#runnerCommand(this.backend, options);
      case 'microvm':
      case 'q35':
        return this.#qemuCommand(this.backend, options);
    }
  }

  #coreCommand(options: GuestOptions): [string, ...string[]] {
    const args = ['--cpus', String(options.cpus ?? 1), '--memory', String(options.memoryMiB ?? 512)];
    args.push('--kernel', join(kernels, options.kernel, 'vmlinuz'), '--initrd', initrdOf(options.kernel, this.#folder));
    args.push('--cmdline', `${commandLine} ${options.words ?? ''}`);
    for (const path of options.disks ?? []) args.push('--disk', path);
    if (options.network === true) args.push('--net', 'user');
    if (options.tap !== undefined) args.push('--net', `tap:${options.tap}`);
    return [coreRunner, ...args];
  }

  #runnerCommand(hypervisor: string, options: GuestOptions): [string, ...string[]] {
    const spec = {
      name: 'guest',
      uuid: randomUUID(),
      cpus: options.cpus ?? 1,
      memoryMiB: options.memoryMiB ?? 512,
      boot: {
        kernel: join(kernels, options.kernel, 'vmlinuz'),
        initrd: initrdOf(options.kernel, this.#folder),
        commandLine: `${commandLine} ${options.words ?? ''}`,
      },
      disks: (options.disks ?? []).map((path, index) => ({ id: `disk${String(index)}`, path, readOnly: false })),
      network: { mode: 'user', mac: '02:00:00:00:00:01', hostname: 'guest', hostAddress: '127.0.0.2', forwards: [] },
      ...(options.vsock === undefined ? {} : { vsock: options.vsock }),
      shares: (options.shares ?? []).map((share, index) => ({ tag: `share${String(index)}`, ...share })),
    };
    const path = join(this.#folder, 'spec.json');
    writeFileSync(path, JSON.stringify(spec));
    return [process.execPath, runner, hypervisor, path];
  }

  #qemuCommand(machine: 'microvm' | 'q35', options: GuestOptions): [string, ...string[]] {
    const micro = machine === 'microvm';
    const args = ['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none', '-accel', 'kvm', '-cpu', 'host'];
    args.push('-M', micro ? 'microvm,rtc=on,pit=off,pic=off' : 'q35,vmport=off,hpet=off');
    args.push('-smp', String(options.cpus ?? 1), '-m', String(options.memoryMiB ?? 512), '-serial', 'stdio');
    args.push('-kernel', join(kernels, options.kernel, 'vmlinuz'), '-initrd', initrdOf(options.kernel, this.#folder));
    args.push('-append', `${commandLine} ${options.words ?? ''}`);
    const device = (type: string) => `${type}-${micro ? 'device' : 'pci'}`;
    for (const [index, path] of (options.disks ?? []).entries()) {
      const id = `disk${String(index)}`;
      args.push('-drive', `if=none,id=${id},format=raw,file=${path},discard=unmap,aio=threads`);
      args.push('-device', `${device('virtio-blk')},drive=${id}`);
    }
    if (options.network === true)
      args.push('-netdev', 'user,id=net0', '-device', `${device('virtio-net')},netdev=net0`);
    return ['qemu-system-x86_64', ...args];
  }
}

/** Runs something with a guest and makes sure that it is gone afterwards. */
export async function withGuest<T>(
  backend: Backend,
  options: GuestOptions,
  use: (guest: Guest) => Promise<T>,
): Promise<T> {
  const guest = new Guest(backend, options);
  try {
    return await use(guest);
  } finally {
    guest.kill();
    await guest.exited;
  }
}
