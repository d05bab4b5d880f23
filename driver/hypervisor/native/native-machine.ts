import { rm } from 'node:fs/promises';
import { join } from 'node:path';

import { TshyveError, checkSocketPath } from '../../base/index.js';
import type { LaunchOptions, VirtualMachine, VmExit } from '../hypervisor.js';
import { ForwardTable, type HostPort, noForwards } from '../forwards.js';
import { type ServedShares, serveShares } from '../virtiofsd.js';
import type { PortForward, PortForwardSpec, VmSpec } from '../vm-spec.js';
import type { NativeAddon, NativeEvent, NativeMachine } from './addon.js';
import { asSentence, nativeError } from './errors.js';
import { nativeAccelerator } from './accelerator.js';
import { nativePorts } from './forwards.js';
import { nativeSpec } from './spec.js';
import { peerAway } from '../peer.js';

/** The guest decides how much the core has to complain about. */
const MAX_LOG_LINES = 1_000;

type ExitEvent = Extract<NativeEvent, { type: 'exited' }>;

/** Builds a machine of the native core and resolves once its vCPUs run. */
export async function launchNative(addon: NativeAddon, spec: VmSpec, options: LaunchOptions): Promise<VirtualMachine> {
  options.signal?.throwIfAborted();
  const machine = new NativeVirtualMachine(addon, spec, options);
  await machine.launch();
  return machine;
}

/**
 * One machine for its user, one core machine after the other underneath: a guest that asks for a reset, or makes a triple
 * fault, gets a fresh one with the same forwards, as QEMU resets in place. All changes happen one after the other.
 */
class NativeVirtualMachine implements VirtualMachine {
  readonly pid = undefined;
  readonly accelerator = nativeAccelerator;
  readonly exited: Promise<VmExit>;
  readonly #ports: ForwardTable | undefined;
  readonly #addon: NativeAddon;
  readonly #spec: VmSpec;
  readonly #options: LaunchOptions;
  #resolveExit: (exit: VmExit) => void = () => undefined;
  #machine: NativeMachine | undefined;
  #served: ServedShares | undefined;
  #killed = false;
  #logLines = 0;
  #last: Promise<unknown> = Promise.resolve();

  constructor(addon: NativeAddon, spec: VmSpec, options: LaunchOptions) {
    this.#addon = addon;
    this.#spec = spec;
    this.#options = options;
    const { network } = spec;
    if (network.mode === 'user') {
      this.#ports = new ForwardTable(
        network.hostAddress,
        nativePorts(() => this.#current()),
      );
    }
    this.exited = new Promise((resolve) => {
      this.#resolveExit = resolve;
    });
  }

  launch(): Promise<void> {
    return this.#inTurn(() => this.#build(this.#options));
  }

  get forwards(): readonly PortForward[] {
    return this.#ports?.forwards ?? [];
  }

  addForward(spec: PortForwardSpec): Promise<PortForward> {
    const add = () => {
      if (this.#ports === undefined) throw noForwards();
      return this.#ports.add(spec);
    };
    return this.#inTurn(add).catch((error: unknown) => {
      // The guest restarts this moment, and the core machine that had the interface is gone: the next one takes it.
      if (TshyveError.is(error, 'not-found')) return this.#inTurn(add);
      throw error;
    });
  }

  removeForward(port: HostPort): Promise<void> {
    return this.#inTurn(() => {
      if (this.#ports === undefined) throw noForwards();
      return this.#ports.remove(port);
    });
  }

  pressPowerButton(): Promise<void> {
    return this.#command('press the power button', (machine) => machine.pressPowerButton());
  }

  pause(): Promise<void> {
    return this.#command('pause the machine', (machine) => machine.pause());
  }

  resume(): Promise<void> {
    return this.#command('resume the machine', (machine) => machine.resume());
  }

  save(folder: string): Promise<void> {
    return this.#command('save the machine', (machine) => machine.save(folder));
  }

  async kill(): Promise<void> {
    // Said at once, so that a reset under way is not followed by another start.
    this.#killed = true;
    await this.#inTurn(() => this.#end({ reason: 'killed', detail: 'The machine was ended by request.' }));
  }

  /** Runs a change after those before it, whatever became of them. */
  #inTurn<T>(change: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(change, change);
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  #current(): NativeMachine {
    if (this.#machine === undefined) throw new TshyveError('not-running', 'The machine is not running.');
    return this.#machine;
  }

  #command(what: string, run: (machine: NativeMachine) => Promise<void>): Promise<void> {
    return this.#inTurn(async () => {
      try {
        await run(this.#current());
      } catch (error) {
        throw nativeError(`Cannot ${what}`, error);
      }
    });
  }

  /** Makes a core machine and starts it; leaves none behind when that fails. */
  async #build(options: Pick<LaunchOptions, 'restoreFrom' | 'beforeStart'>): Promise<void> {
    const onEvent = (event: NativeEvent) => {
      this.#onEvent(event);
    };
    let machine: NativeMachine | undefined;
    const frameSocket = checkSocketPath(join(this.#options.runDirectory, 'net.sock'));
    try {
      // What a supervisor that was killed has left.
      await rm(frameSocket, { force: true });
      // A virtiofsd serves one core machine and ends with it.
      await this.#served?.close();
      const shares = process.platform === 'darwin' ? [] : (this.#spec.shares ?? []);
      this.#served = await serveShares(shares, this.#options);
      const native = nativeSpec(this.#spec, frameSocket, this.#served.shares);
      machine =
        options.restoreFrom === undefined
          ? await this.#addon.create(native, onEvent)
          : await this.#addon.restore(native, options.restoreFrom, onEvent);
      this.#machine = machine;
      await this.#forward();
      await options.beforeStart?.();
      await machine.start();
    } catch (error) {
      this.#machine = undefined;
      await machine?.close();
      await this.#served?.close();
      throw nativeError('The native core did not start the machine', error);
    }
  }

  /** Those that were asked for, or, after a restart of the guest, those that clients have been told. */
  async #forward(): Promise<void> {
    const { network } = this.#spec;
    if (this.#ports === undefined || network.mode !== 'user') return;
    if (this.#ports.forwards.length > 0) {
      this.#ports.forgetBindings();
      await this.#ports.renew();
    } else for (const forward of network.forwards) await this.#ports.add(forward);
  }

  #onEvent(event: NativeEvent): void {
    switch (event.type) {
      case 'console':
        this.#options.onConsole(event.bytes);
        break;
      case 'address':
        this.#options.onAddress?.(event.address);
        break;
      case 'link':
        this.#onLink(event.up);
        break;
      case 'log':
        if (this.#logLines++ < MAX_LOG_LINES) this.#options.log.debug(`native: ${event.line}`);
        break;
      case 'exited':
        void this.#inTurn(() => this.#onExit(event));
        break;
    }
  }

  /** The switch of a user-mode network is watched by whoever has joined it. */
  #onLink(up: boolean): void {
    const { network } = this.#spec;
    if (network.mode === 'socket') this.#options.onProblem?.(up ? '' : peerAway(network));
  }

  async #onExit(event: ExitEvent): Promise<void> {
    if (event.reason !== 'reset' || this.#killed) {
      const reason = event.reason === 'reset' ? 'killed' : event.reason;
      await this.#end({ reason, detail: asSentence(event.detail) });
      return;
    }
    this.#options.log.info(asSentence(event.detail));
    try {
      await this.#machine?.close();
      this.#machine = undefined;
      await this.#build({});
    } catch (error) {
      await this.#end({ reason: 'crashed', detail: nativeError('The guest cannot restart', error).message });
    }
  }

  async #end(exit: VmExit): Promise<void> {
    const machine = this.#machine;
    this.#machine = undefined;
    await machine?.stop().catch(() => undefined);
    await machine?.close();
    await this.#served?.close();
    this.#resolveExit(exit);
  }
}
