import { EventEmitter } from 'node:events';
import { isIPv4 } from 'node:net';

import { TshyveError, messageOf, sleep, writeFileAtomic } from '../base/index.js';
import {
  type HostPort,
  type Hypervisor,
  type PortForward,
  type PortForwardSpec,
  type ServiceAddress,
  type VirtualMachine,
  type VmExit,
  extrasOf,
  requireExtras,
  selectHypervisor,
} from '../hypervisor/index.js';
import { type Attachment, attach } from './attachment.js';
import { ConsoleEvents } from './console-events.js';
import type { GuestWay } from './guest-contact.js';
import type { SupervisorPlace } from './place.js';
import type { PublishedForwards } from './published-forwards.js';
import { RotatingLog } from './rotating-log.js';
import { discardSavedState, returnSavedState, savedFolder, useSavedState, writeSavedState } from './saved-state.js';
import { watchForWake } from './wake-watch.js';
import type { GuestLogin, LaunchRequest, MachineEvent, SupervisorState, SupervisorStatus } from './types.js';

/** A press that comes before the guest listens is lost, so it is repeated. */
const POWER_BUTTON_INTERVAL_MS = 3_000;
/** A guest can print milestones without end; a boot has about ten. What goes beyond is passed over. */
const MAX_EVENTS = 64;
/** After a sleep, an attempt to reach the guest lasts a minute; the next follows after another. */
const MEND_PAUSE_MS = 60_000;
const MAX_GUEST_EVENTS_PER_MINUTE = 120;

/** What a supervisor gets from its host; a test has another host. */
export interface SupervisorHost {
  readonly selectHypervisor: typeof selectHypervisor;
  readonly attach: typeof attach;
  readonly watchForWake: (onWake: () => void) => () => void;
}

const thisHost: SupervisorHost = { selectHypervisor, attach, watchForWake };

/**
 * Owns one running virtual machine: its state, its console, its events, its end. Emits `event` for each new event and
 * `gone` when the machine is no more. Knows nothing of gRPC.
 */
export class Supervisor extends EventEmitter<{ event: [MachineEvent]; gone: [VmExit] }> {
  readonly #request: LaunchRequest;
  readonly #place: SupervisorPlace;
  readonly #log: (line: string) => void;
  readonly #host: SupervisorHost;
  readonly #console: RotatingLog;
  readonly #launchedAt = performance.now();
  readonly #startedAtMs = Date.now();
  #state: SupervisorState = 'starting';
  #events: MachineEvent[] = [];
  #hypervisor: Hypervisor | undefined;
  #vm: VirtualMachine | undefined;
  #saved = false;
  #attachment: Attachment | undefined;
  /** The machine's own address on a shared network; not known at first. */
  #address = '';
  /** A DHCP server gave the address in front of our eyes. */
  #sawLease = false;
  #exit: VmExit | undefined;
  #problem = '';
  #published: PublishedForwards | undefined;
  readonly #over = new AbortController();
  /** Ends the attempt to reach the guest after a sleep of the host; undefined: the guest has been reached since. */
  #mending: AbortController | undefined;
  #guestEvents = { since: 0, count: 0 };
  #writing: Promise<void> = Promise.resolve();
  #writeWanted = false;

  constructor(request: LaunchRequest, place: SupervisorPlace, log: (line: string) => void, host = thisHost) {
    super();
    this.setMaxListeners(0);
    this.#host = host;
    this.#request = request;
    this.#place = place;
    this.#log = log;
    this.#console = new RotatingLog(place.consoleLog);
  }

  status(): SupervisorStatus {
    return {
      state: this.#state,
      hostAddress: this.#hostAddress(),
      forwards: this.#forwards(),
      hypervisor: this.#hypervisor?.name ?? this.#request.hypervisor,
      accelerator: this.#vm?.accelerator ?? '',
      supervisorPid: process.pid,
      vmPid: this.#vm?.pid ?? 0,
      startedAtMs: this.#startedAtMs,
      problem: this.#problem,
      events: this.#events,
    };
  }

  /** Writes the status file: one write at a time, and one more for all changes that happen meanwhile. */
  publish(): Promise<void> {
    if (this.#writeWanted) return this.#writing;
    this.#writeWanted = true;
    this.#writing = this.#writing.then(() => {
      this.#writeWanted = false;
      return writeFileAtomic(this.#place.statusFile, JSON.stringify(this.status())).catch((error: unknown) => {
        this.#log(`status file: ${messageOf(error)}`);
      });
    });
    return this.#writing;
  }

  /** Launches the machine; resolves when the guest runs. */
  async launch(): Promise<void> {
    await this.publish();
    const parser = new ConsoleEvents((name, argument) => {
      if (!this.#mayReport()) return;
      this.#record(name, argument);
      if (name === 'address') this.#guestSays(argument);
      if (name === 'docker') void this.#forwardPublished();
    });
    const log = { info: this.#log, debug: this.#log };
    const { spec } = this.#request;
    this.#hypervisor = await this.#host.selectHypervisor(this.#request.hypervisor);
    await requireExtras(this.#hypervisor, extrasOf(spec));
    this.#attachment = await this.#host.attach(spec.network, spec.name, log);
    const launch = this.#hypervisor.launch(spec, {
      runDirectory: this.#place.runDirectory,
      log,
      onConsole: (bytes) => {
        this.#console.write(bytes);
        parser.push(bytes);
      },
      onAddress: (address) => {
        this.#sawLease = true;
        this.#onAddress(address);
      },
      onProblem: (problem) => {
        this.#setProblem(problem);
      },
      ...this.#resumeOptions(),
    });
    const vm = await launch.catch(async (error: unknown) => {
      await this.#attachment?.detach();
      if (this.#request.resume === true) await returnSavedState(this.#place.machineDirectory);
      throw error;
    });
    this.#vm = vm;
    if (spec.network.mode === 'socket' && spec.network.address !== undefined) this.#setAddress(spec.network.address);
    this.#state = 'running';
    this.#record('launched', vm.accelerator);
    this.#attachment?.watch(
      (address) => {
        this.#onAddress(address);
      },
      (problem) => {
        this.#setProblem(problem);
      },
    );
    // A state from before this boot is worth nothing; one that was resumed is used up.
    if (this.#request.resume === true) {
      this.#record('resumed', '');
      void this.#forwardPublished();
    }
    await discardSavedState(this.#place.machineDirectory);
    await this.publish();
    const endWatch = this.#host.watchForWake(() => void this.#hostHasSlept());
    this.#over.signal.addEventListener('abort', endWatch);
    void vm.exited.then((exit) => this.#ended(exit));
  }

  #setProblem(problem: string): void {
    this.#problem = problem;
    void this.publish();
  }

  /** @returns true when the guest had to be ended by force */
  async stop(timeoutMs: number): Promise<boolean> {
    const vm = this.#running();
    this.#state = 'stopping';
    await this.publish();
    const deadline = performance.now() + timeoutMs;
    let pause = true;
    while (this.#exit === undefined && performance.now() < deadline) {
      if (pause) await vm.resume().catch(() => undefined);
      pause = false;
      await vm.pressPowerButton().catch(() => undefined);
      const wait = Math.max(0, Math.min(POWER_BUTTON_INTERVAL_MS, deadline - performance.now()));
      await Promise.race([vm.exited, sleep(wait)]);
    }
    if (this.#exit !== undefined) return false;
    this.#log(`The guest did not power off within ${String(timeoutMs)} ms; ending it.`);
    await vm.kill();
    return true;
  }

  async kill(): Promise<void> {
    this.#state = 'stopping';
    await this.#running().kill();
  }

  async pause(): Promise<void> {
    await this.#running().pause();
    this.#state = 'paused';
    await this.publish();
  }

  async resume(): Promise<void> {
    await this.#running().resume();
    this.#state = 'running';
    await this.publish();
  }

  /**
   * Saves the machine and ends it. When saving fails, the machine goes on as if nothing had been.
   * @throws TshyveError `busy` while it starts or stops, `no-space`, `hypervisor`
   */
  async suspend(): Promise<void> {
    const vm = this.#running();
    const before = this.#state;
    if (before !== 'running' && before !== 'paused') {
      throw new TshyveError('busy', `The machine is ${before}. Wait for that and try again.`);
    }
    this.#state = 'stopping';
    await this.publish();
    try {
      await vm.pause();
      await this.#save(vm);
    } catch (error) {
      if (before === 'running') await vm.resume().catch(() => undefined);
      this.#state = before;
      await this.publish();
      throw error;
    }
    this.#saved = true;
    this.#record('suspended', '');
    await vm.kill();
  }

  /** @throws TshyveError `not-running`; `precondition` when the port cannot be had */
  async addForward(spec: PortForwardSpec): Promise<PortForward> {
    const vm = this.#running();
    const forward = await (this.#attachment?.ports?.add(spec) ?? vm.addForward(spec));
    await this.publish();
    return forward;
  }

  /** @throws TshyveError `not-running`, `not-found` */
  async removeForward(port: HostPort): Promise<void> {
    const vm = this.#running();
    await (this.#attachment?.ports?.remove(port) ?? vm.removeForward(port));
    await this.publish();
  }

  async #save(vm: VirtualMachine): Promise<void> {
    const hypervisor = this.#hypervisor;
    if (hypervisor === undefined) throw new TshyveError('internal', 'A machine runs without a hypervisor.');
    const { stateVersion = '' } = await hypervisor.probe();
    await writeSavedState(this.#place.machineDirectory, vm, {
      hypervisor: hypervisor.name,
      stateVersion,
      spec: this.#request.spec,
      forwards: this.#forwards(),
    });
  }

  #resumeOptions() {
    const { machineDirectory } = this.#place;
    if (this.#request.resume !== true) return {};
    return {
      restoreFrom: savedFolder(machineDirectory),
      beforeStart: async () => {
        await useSavedState(machineDirectory);
      },
    };
  }

  #hostAddress(): string {
    const { network } = this.#request.spec;
    if ('hostAddress' in network) return network.hostAddress;
    return this.#forwards().find(({ name }) => name === 'ssh')?.hostAddress ?? this.#address;
  }

  /** Where the machine's services are reached; none as long as that is not known. */
  #forwards(): readonly PortForward[] {
    const { network } = this.#request.spec;
    if ('hostAddress' in network) return this.#attachment?.ports?.forwards ?? this.#vm?.forwards ?? [];
    const own = this.#address;
    const services: readonly { name: string; guestPort: number; at?: ServiceAddress }[] = network.services;
    return services.flatMap(({ name, guestPort, at }) => {
      if (at !== undefined) return [{ name, guestPort, ...at, protocol: 'tcp' as const }];
      return own === '' ? [] : [{ name, guestPort, hostAddress: own, hostPort: guestPort, protocol: 'tcp' as const }];
    });
  }

  /**
   * QEMU sends datagrams itself, and macOS' bridge takes frames away, so that nobody sees the DHCPACK pass: there the
   * guest's word has to do. A false one only makes clients look for the machine's SSH host key in the wrong place.
   */
  #guestSays(address: string): void {
    const { network } = this.#request.spec;
    const isUnicast = isIPv4(address) && !/^(0|127|22[4-9]|2[345]\d)\./.test(address);
    const byWord = network.mode === 'socket' || network.mode === 'bridged';
    if (byWord && !this.#sawLease && isUnicast) this.#setAddress(address);
  }

  #onAddress(address: string): void {
    if (!('hostAddress' in this.#request.spec.network)) this.#setAddress(address);
    else if (this.#mayReport()) this.#record('lease', address);
  }

  #setAddress(address: string): void {
    if (address === this.#address) return;
    this.#address = address;
    // Who hears of it looks into the status file next.
    void this.publish().then(() => {
      this.#record('lease', address);
      if (this.#mending !== undefined) void this.#mendAfterWake();
    });
  }

  /** Docker runs in the guest: what it publishes is forwarded from now on. */
  async #forwardPublished(): Promise<void> {
    const { login, forwardPublished } = this.#request;
    if (login === undefined || forwardPublished !== true) return;
    // Loaded late: it takes SSH, which a supervisor has no other use for.
    const { PublishedForwards } = await import('./published-forwards.js');
    if (this.#exit !== undefined) return;
    this.#published ??= new PublishedForwards({
      ...this.#way(login),
      add: (spec) => this.addForward(spec),
      remove: (port) => this.removeForward(port),
      log: { info: this.#log, debug: this.#log },
    });
    this.#published.dockerRuns();
  }

  #way(login: GuestLogin): GuestWay {
    return {
      login,
      forwards: () => this.#forwards(),
      reach: (forward) => (this.#attachment?.reach ?? same)(forward),
    };
  }

  /** The guest's clock stood still meanwhile, and its address may lead elsewhere now. */
  async #hostHasSlept(): Promise<void> {
    this.#log('The host has slept, or its clock was set.');
    this.#attachment?.hostHasSlept?.();
    await this.#mendAfterWake();
  }

  /** Where the guest is not reached, this comes again with its next address. */
  async #mendAfterWake(): Promise<void> {
    const { login } = this.#request;
    this.#mending?.abort();
    if (login === undefined || this.#state !== 'running') return;
    const attempt = new AbortController();
    this.#mending = attempt;
    const signal = AbortSignal.any([this.#over.signal, attempt.signal]);
    try {
      // Loaded late: it takes SSH.
      const { mendAfterWake } = await import('./after-wake.js');
      await mendAfterWake(this.#way(login), { info: this.#log, debug: this.#log }, signal);
      if (this.#mending !== attempt) return;
      this.#mending = undefined;
      if (this.#problem !== '') this.#setProblem('');
    } catch (error) {
      if (signal.aborted) return;
      this.#log(`After the host has slept: ${messageOf(error)}`);
      // Its first address is still to come.
      if (TshyveError.is(error, 'not-running')) return;
      this.#setProblem(`Not reached since the host has slept: ${messageOf(error)} If that lasts, restart the machine.`);
      const again = () => void this.#mendAfterWake();
      void sleep(MEND_PAUSE_MS, signal).then(again, () => undefined);
    }
  }

  #running(): VirtualMachine {
    if (this.#vm === undefined || this.#exit !== undefined) {
      throw new TshyveError('not-running', 'The machine is not running.');
    }
    return this.#vm;
  }

  #record(name: string, argument: string): void {
    // A guest that restarts by itself begins its milestones anew.
    if (name === 'init') this.#events = this.#events.filter((event) => event.name === 'launched');
    if (this.#events.length >= MAX_EVENTS) return;
    const event = { name, argument, atMs: Math.round(performance.now() - this.#launchedAt) };
    this.#events.push(event);
    this.#log(`event ${name} ${argument} after ${String(event.atMs)} ms`);
    this.emit('event', event);
    void this.publish();
  }

  async #ended(ended: VmExit): Promise<void> {
    const exit = this.#saved ? { ...ended, detail: 'The machine was saved and ended.' } : ended;
    this.#record('exited', exit.reason);
    this.#exit = exit;
    this.#over.abort();
    this.#published?.close();
    this.#log(exit.detail);
    await this.#attachment?.detach();
    const record = { ...exit, at: new Date().toISOString() };
    await writeFileAtomic(this.#place.lastExit, `${JSON.stringify(record)}\n`).catch(() => undefined);
    await this.#writing;
    this.#console.close();
    this.emit('gone', exit);
  }

  /** Counts the events of the guest, minute by minute. */
  #mayReport(): boolean {
    const now = performance.now();
    if (now - this.#guestEvents.since > 60_000) this.#guestEvents = { since: now, count: 0 };
    return this.#guestEvents.count++ < MAX_GUEST_EVENTS_PER_MINUTE;
  }
}

function same(forward: PortForward): PortForward {
  return forward;
}
