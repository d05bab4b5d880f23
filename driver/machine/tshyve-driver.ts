import { mkdir, readFile, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';

import {
  TshyveError,
  allEnded,
  exists,
  isLocked,
  machineId,
  makePrivateDirectory,
  messageOf,
  tshyveHome,
  within,
  writeFileAtomic,
} from '../base/index.js';
import {
  type ContactHints,
  type GuestSession,
  bootedOnTime,
  contactGuest,
  mendGuestClock,
  mountShares,
  createKeyPair,
  diskSeed,
} from '../guest/index.js';
import {
  ADDED,
  type Extras,
  type HostPort,
  type NetworkSpec,
  type PortForward,
  type VmSpec,
  chooseHypervisor,
  isAt,
  requireExtras,
  requireUserSwitch,
  selectHypervisor,
} from '../hypervisor/index.js';
import {
  copyImage,
  extractBootFiles,
  imageStamp,
  parseImageSource,
  requireSourceFile,
  resolveImage,
} from '../image/index.js';
import {
  claimAddress,
  detachTap,
  diagnose,
  dockerPorts,
  explainFindings,
  inspectNetwork,
  macFor,
  readMacFacts,
  releaseAddress,
  networkPlace,
  requireUp,
  sshPorts,
  tapName,
  uuidFor,
} from '../network/index.js';
import {
  type LaunchRequest,
  type MachineReference,
  type SupervisorClient,
  discardSavedState,
  findSupervisor,
  giveUp,
  hasSavedState,
  lastExit,
  launchSupervisor,
  misfits,
  quickStatus,
  readSavedState,
} from '../supervisor/index.js';
import { portSockets } from '../user-network/index.js';
import { type StoredConfig, configDefaults, mergeConfig, renderConfig } from './config.js';
import { checkDiskImage, createDisk, importQcow2 } from './disk.js';
import type { CreateFlag, Driver, FlagValue, MachineState, Operation } from './driver.js';
import { applyFlags, createFlags } from './flags.js';
import { type MachineLayout, isClientFile, machineLayout } from './layout.js';
import { exclusively } from './operation-lock.js';
import { type NetworkChoice, parseNetworkChoice } from './network-choice.js';
import { type AddedPort, type MachineRecord, readRecord, writeRecord } from './record.js';
import { ROSETTA_TAG, parseShares, requireFolders, shareWords } from './shares.js';
import { parseVsockPorts, requireSocketRoom } from './vsock-ports.js';
import { requirePeer } from './socket-choice.js';
import { requireValid } from './validate.js';

/** How long a guest may take to power off before it is ended by force. */
const STOP_TIMEOUT_MS = 60_000;
/** A machine that runs answers at once, but for a host or guest that has much else to do. */
const SESSION_TIMEOUT_MS = 60_000;
const CONSOLE_TAIL_LINES = 8;
/** libslirp's address for the host's loopback interface (its default `vhost`). */
const USER_NETWORK_HOST = '10.0.2.2';
/** Boot milestones worth a line of progress. */
const milestones = new Map([
  ['init', 'The kernel is up'],
  ['disk', 'The data disk is ready'],
]);

/** Clients recognise this text, so it must be exactly this. */
const notRunning = () => new TshyveError('not-running', 'Host is not running');

/** The machine driver: a machine is a folder, a running machine is a supervisor; this class brings both together. */
export class TshyveDriver implements Driver {
  readonly driverName = 'tshyve';
  #stored: StoredConfig;

  constructor(machineName: string, storePath: string) {
    this.#stored = {
      config: { ...configDefaults, MachineName: machineName, StorePath: storePath },
      unknown: new Map(),
      problems: [],
    };
  }

  get machineName(): string {
    return this.#config.MachineName;
  }

  get #config() {
    return this.#stored.config;
  }

  get #layout(): MachineLayout {
    return machineLayout(this.#config.StorePath, this.#config.MachineName);
  }

  get #reference(): MachineReference {
    return {
      machineDirectory: this.#layout.directory,
      id: machineId(this.#config.StorePath, this.#config.MachineName),
    };
  }

  setConfigRaw(json: string): void {
    this.#stored = mergeConfig(this.#stored, json);
  }

  getConfigRaw(): string {
    return renderConfig(this.#stored);
  }

  createFlags(): readonly CreateFlag[] {
    return createFlags;
  }

  setConfigFromFlags(values: ReadonlyMap<string, FlagValue>): void {
    applyFlags(this.#config, values);
  }

  async preCreateCheck(operation: Operation): Promise<void> {
    const config = this.#config;
    requireValid(config, this.#stored.problems);
    if (config.VSockPorts.length > 0) requireSocketRoom(this.#layout.vsock);
    const source = parseImageSource(config.Boot2DockerURL, config.ImageSHA256);
    const { hypervisor, reason, notes } = await chooseHypervisor(config.Hypervisor);
    operation.log.debug([`Hypervisor ${hypervisor.name}: ${reason}`, ...notes].join(' '));
    const [probe] = await Promise.all([
      hypervisor.probe({ signal: operation.signal }),
      requireSourceFile(source),
      ...config.ExtraDisks.filter((disk) => disk.startsWith('/')).map((disk) => checkDiskImage(disk, operation.signal)),
      this.#requireNetwork(),
      requireFolders(parseShares(config.Shares)),
    ]);
    if (!probe.usable) throw new TshyveError('precondition', probe.notes.join(' '));
    await requireExtras(hypervisor, this.#extras());
    for (const note of probe.notes) operation.log.info(note);
  }

  async create(operation: Operation): Promise<void> {
    requireValid(this.#config, this.#stored.problems);
    const existed = await exists(this.#layout.directory);
    try {
      await exclusively(this.#layout, { ...operation, make: true }, async () => {
        const record = await readRecord(this.#layout.record).catch(() => undefined);
        if (record?.complete !== true) await this.#createFresh(operation);
        else await this.#startExisting(operation);
      });
    } catch (error) {
      // A folder that the client has made is the client's to delete.
      if (!existed) await rm(this.#layout.directory, { recursive: true, force: true });
      throw error;
    }
  }

  async start(operation: Operation): Promise<void> {
    await this.#requireMachine();
    await exclusively(this.#layout, operation, () => this.#startExisting(operation));
  }

  async stop(operation: Operation): Promise<void> {
    await this.#requireMachine();
    await exclusively(this.#layout, operation, () => this.#stopRunning(operation));
  }

  async suspend(operation: Operation): Promise<void> {
    await this.#requireMachine();
    await exclusively(this.#layout, operation, async () => {
      const supervisor = await findSupervisor(this.#reference);
      if (supervisor === undefined) {
        if (await hasSavedState(this.#layout.directory)) return;
        throw notRunning();
      }
      if (this.#config.Shares.length > 0 || this.#config.Rosetta) {
        throw new TshyveError(
          'precondition',
          'A machine with shared folders cannot be suspended, as the files that it has open in them cannot be saved. Stop it instead.',
        );
      }
      operation.log.info('Saving the machine');
      await supervisor.suspend();
    });
  }

  async restart(operation: Operation): Promise<void> {
    await this.#requireMachine();
    await exclusively(this.#layout, operation, async () => {
      await this.#stopRunning(operation);
      await this.#startExisting(operation);
    });
  }

  async kill(operation: Operation): Promise<void> {
    await this.#requireMachine();
    await exclusively(this.#layout, operation, async () => {
      await (await findSupervisor(this.#reference))?.kill();
      if (await hasSavedState(this.#layout.directory)) operation.log.info('Giving up the saved state of the machine');
      await discardSavedState(this.#layout.directory);
    });
  }

  async remove(operation: Operation): Promise<void> {
    const layout = this.#layout;
    try {
      await exclusively(layout, operation, async () => {
        await (await findSupervisor(this.#reference))?.kill();
        await this.#deleteFiles();
      });
    } catch (error) {
      // Removed already, or by somebody else while we waited; what runs without a folder is ended all the same.
      if (!TshyveError.is(error, 'not-found')) throw error;
      await (await findSupervisor(this.#reference))?.kill();
    }
    await this.#leaveNetwork();
    await releaseAddress(layout.directory);
  }

  async upgrade(operation: Operation): Promise<void> {
    const record = await this.#requireMachine();
    await exclusively(this.#layout, operation, async () => {
      const image = await this.#localImage(operation);
      const running = (await quickStatus(this.#reference)) !== undefined;
      await this.#stopRunning(operation);
      operation.log.info('Installing the guest image');
      await copyImage(image.path, this.#layout.iso);
      await writeRecord(this.#layout.record, withoutStamp(record));
      if (running) await this.#startExisting(operation);
    });
  }

  async getState(): Promise<MachineState> {
    const record = await readRecord(this.#layout.record);
    if (record === undefined) return 'none';
    // Half-made: somebody is at it, or was killed on the way.
    if (!record.complete) return (await isLocked(this.#layout.operationLock)) ? 'starting' : 'error';
    const status = await quickStatus(this.#reference);
    if (status !== undefined) return status.state;
    return (await hasSavedState(this.#layout.directory)) ? 'saved' : 'stopped';
  }

  /** What is wrong with the running machine, a sentence; empty when all is well. */
  async problem(): Promise<string> {
    return (await quickStatus(this.#reference))?.problem ?? '';
  }

  async getURL(): Promise<string> {
    // A client that sees a url takes the machine for running and waits for its Docker.
    if ((await readRecord(this.#layout.record))?.complete !== true) throw notRunning();
    const { hostAddress, hostPort } = await this.#forward('docker');
    return `tcp://${hostAddress}:${String(hostPort)}`;
  }

  async getIP(): Promise<string> {
    return (await this.#forward('ssh')).hostAddress;
  }

  getIPv6(): Promise<string> {
    return Promise.reject(new TshyveError('precondition', 'IPv6 address is not set'));
  }

  /**
   * The host as the guest sees it, and the host's own address at which a server must listen for that.
   * @throws TshyveError `precondition` on a network that is not ours
   */
  async hostAddress(): Promise<{ readonly guest: string; readonly bind: string }> {
    const choice = parseNetworkChoice(this.#config.Network);
    switch (choice.mode) {
      case 'user':
        return { guest: USER_NETWORK_HOST, bind: '127.0.0.1' };
      case 'shared': {
        const { gateway } = await inspectNetwork(choice.network);
        return { guest: gateway, bind: gateway };
      }
      case 'nat': {
        // vmnet gives itself the first address of its /24.
        const gateway = (await this.getIP()).replace(/\d+$/, '1');
        return { guest: gateway, bind: gateway };
      }
      case 'bridged':
        throw new TshyveError(
          'precondition',
          'On a bridged network, tshyve does not know at which of its addresses the guest finds this host.',
        );
      case 'socket':
        throw new TshyveError(
          'precondition',
          `What answers at ${choice.path} decides at which address the guest finds this host; tshyve does not know it.`,
        );
    }
  }

  getSSHHostname(): Promise<string> {
    return this.getIP();
  }

  async getSSHPort(): Promise<number> {
    const status = await quickStatus(this.#reference);
    const forward = status?.forwards.find((candidate) => candidate.name === 'ssh');
    return forward?.hostPort ?? (this.#config.SSHPort > 0 ? this.#config.SSHPort : 22);
  }

  getSSHKeyPath(): string {
    return this.#config.SSHKeyPath === '' ? this.#layout.privateKey : this.#config.SSHKeyPath;
  }

  /** The words that were appended to the kernel's command line (`--tshyve-cmdline`). */
  get kernelArguments(): readonly string[] {
    return this.#config.Cmdline.split(/\s+/).filter((word) => word !== '');
  }

  getSSHUsername(): string {
    return this.#config.SSHUser;
  }

  /** Every port of the host that leads to the machine: those in force, or those that will be once it runs. */
  async ports(): Promise<readonly (AddedPort & { readonly name: string; readonly hostAddress: string })[]> {
    const record = await this.#requireMachine();
    const status = await quickStatus(this.#reference);
    if (status !== undefined) return status.forwards;
    return (record.ports ?? []).map((port) => ({ ...port, name: ADDED, hostAddress: record.hostAddress ?? '' }));
  }

  /**
   * Leads a port of the machine's host address to it, now and after each start. No-op when it does that already.
   * @throws TshyveError `precondition` when the port cannot be had, or leads elsewhere
   */
  async addPort(operation: Operation, port: AddedPort): Promise<void> {
    await this.#changePorts(operation, async (known, supervisor) => {
      const there = known.find((other) => isAt(other, port));
      if (there?.guestPort === port.guestPort) return known;
      if (there !== undefined) {
        throw new TshyveError(
          'precondition',
          `Port ${String(port.hostPort)}/${port.protocol} leads to port ${String(there.guestPort)} of the machine. Remove it first: "tshyve port rm ${this.machineName} ${String(port.hostPort)}/${port.protocol}".`,
        );
      }
      await supervisor?.addForward({ name: ADDED, ...port });
      return [...known, port];
    });
  }

  /** @throws TshyveError `not-found` when no user has added it */
  async removePort(operation: Operation, port: HostPort): Promise<void> {
    await this.#changePorts(operation, async (known, supervisor) => {
      if (!known.some((other) => isAt(other, port))) {
        throw new TshyveError(
          'not-found',
          `Port ${String(port.hostPort)}/${port.protocol} was not added to the machine. "tshyve port ls ${this.machineName}" shows those that were.`,
        );
      }
      await supervisor?.removeForward(port).catch((error: unknown) => {
        // Not bound, for whatever reason: that is what is wanted.
        if (!TshyveError.is(error, 'not-found')) throw error;
      });
      return known.filter((other) => !isAt(other, port));
    });
  }

  async #changePorts(
    operation: Operation,
    change: (known: readonly AddedPort[], supervisor: SupervisorClient | undefined) => Promise<readonly AddedPort[]>,
  ): Promise<void> {
    await this.#requireMachine();
    if (!hasLoopbackAddress(parseNetworkChoice(this.#config.Network))) {
      throw new TshyveError(
        'precondition',
        `Machine "${this.machineName}" is on a network where it has an address of its own, with all its ports ("tshyve ip ${this.machineName}").`,
      );
    }
    await exclusively(this.#layout, operation, async () => {
      const record = await this.#requireMachine();
      const ports = await change(record.ports ?? [], await findSupervisor(this.#reference));
      await writeRecord(this.#layout.record, { ...record, ports });
    });
  }

  /** Opens an SSH session to the running machine, its host key checked. */
  async openSession(operation: Operation): Promise<GuestSession> {
    await this.#forward('ssh');
    return this.#contact(operation, SESSION_TIMEOUT_MS);
  }

  /** @throws TshyveError `not-running` */
  async #forward(name: string): Promise<PortForward> {
    const status = await quickStatus(this.#reference);
    const usable = status !== undefined && status.state !== 'stopping';
    const forward = usable ? status.forwards.find((candidate) => candidate.name === name) : undefined;
    if (forward === undefined) throw notRunning();
    return forward;
  }

  async #requireMachine(): Promise<MachineRecord> {
    const record = await readRecord(this.#layout.record);
    if (record === undefined) {
      throw new TshyveError(
        'not-found',
        `Machine "${this.machineName}" not found: ${this.#layout.record} does not exist.`,
      );
    }
    return record;
  }

  /** Makes a machine from nothing, or from what a killed attempt has left. Leaves nothing when it fails. */
  async #createFresh(operation: Operation): Promise<void> {
    const { log } = operation;
    const config = this.#config;
    const layout = this.#layout;
    await (await findSupervisor(this.#reference))?.kill();
    await this.#deleteFiles();
    try {
      const identity = {
        mac: macFor(config.StorePath, config.MachineName),
        uuid: uuidFor(config.StorePath, config.MachineName),
      };
      const record: MachineRecord = { version: 1, complete: false, ...identity };
      await writeRecord(layout.record, record);
      log.info('Preparing disk, keys and guest image');
      const keys = createKeyPair(config.MachineName);
      const image = await this.#localImage(operation);
      const [boot] = await allEnded([
        this.#unpackBootFiles(image.path, operation.signal),
        writeFileAtomic(layout.privateKey, keys.privateKey),
        writeFileAtomic(layout.publicKey, keys.publicKey, 0o644),
        createDisk(layout.dataDisk, config.DiskSize, diskSeed(keys.publicKey)),
        ...config.ExtraDisks.map((disk, index) => this.#makeExtraDisk(disk, layout.extraDisk(index), operation)),
        copyImage(image.path, layout.iso),
      ]);
      await writeRecord(layout.record, { ...record, boot, isoStamp: await imageStamp(layout.iso) });
      config.Boot2DockerURL = image.fileUrl;
      config.SSHKeyPath = layout.privateKey;
      await this.#startExisting(operation);
    } catch (error) {
      await (await findSupervisor(this.#reference).catch(() => undefined))?.kill().catch(() => undefined);
      await this.#deleteFiles();
      await releaseAddress(layout.directory);
      throw error;
    }
  }

  /** A size becomes a new disk, a qcow2 image is imported, a raw image is used where it lies. */
  async #makeExtraDisk(disk: string, path: string, { log, signal }: Operation): Promise<void> {
    if (!disk.startsWith('/')) await createDisk(path, Number(disk));
    else if ((await checkDiskImage(disk, signal)) === 'qcow2') {
      log.info(`Importing ${disk}`);
      await importQcow2(disk, path, signal);
    }
  }

  /** Boots the machine unless it runs, and waits for SSH. */
  async #startExisting(operation: Operation): Promise<void> {
    const { log, signal } = operation;
    requireValid(this.#config, this.#stored.problems);
    const record = await this.#installBootFiles(await this.#withHostAddress(await this.#requireMachine()), signal);
    let supervisor = await findSupervisor(this.#reference);
    const fresh = supervisor === undefined;
    if (supervisor === undefined) {
      const spec = await this.#spec(record);
      await requireFiles([...spec.disks.map((disk) => disk.path), this.getSSHKeyPath()]);
      await requireFolders(parseShares(this.#config.Shares));
      await this.#requireNetwork();
      const request = await this.#launchRequest(spec);
      log.info(request.resume === true ? 'Resuming the virtual machine' : 'Starting the virtual machine');
      supervisor = await launchSupervisor(request, signal);
    } else if ((await this.getState()) === 'paused') await supervisor.resume();
    log.info('Waiting for SSH');
    const session = await this.#awaitGuest(supervisor, operation, fresh);
    const booted = fresh ? await quickStatus(this.#reference) : undefined;
    try {
      if (booted === undefined || !bootedOnTime(booted)) await mendGuestClock(session, log);
      await mountShares(session, parseShares(this.#config.Shares));
    } finally {
      session.close();
    }
    const { hostAddress, hostPort } = await this.#forward('ssh');
    this.#config.IPAddress = hostAddress;
    this.#config.SSHPort = hostPort;
    await writeRecord(this.#layout.record, { ...record, complete: true, hostKey: session.hostKey });
  }

  /** True once it is known where the machine's sshd is reached. */
  async #isAddressed(): Promise<boolean> {
    return (await quickStatus(this.#reference))?.forwards.some((forward) => forward.name === 'ssh') === true;
  }

  #leaseWait(): string {
    const choice = parseNetworkChoice(this.#config.Network);
    if (choice.mode === 'socket') return `an address of the guest from the network at ${choice.path}`;
    if (choice.mode === 'nat') return "an address of the guest from macOS' DHCP server (/var/db/dhcpd_leases)";
    if (choice.mode === 'bridged') return `an address of the guest from the network at ${choice.interface}`;
    const network = choice.mode === 'shared' ? choice.network : choice.mode;
    return `an address of the guest on the network "${network}" ("tshyve network inspect ${network}" shows it)`;
  }

  /** What may keep a machine on macOS' own network from its address, with what to do; empty elsewhere. */
  async #diagnosis(): Promise<string> {
    if (parseNetworkChoice(this.#config.Network).mode !== 'nat') return '';
    const { mac } = await this.#requireMachine();
    return explainFindings(diagnose(await readMacFacts(mac)));
  }

  async #requireNetwork(): Promise<void> {
    const choice = parseNetworkChoice(this.#config.Network);
    if (choice.mode === 'shared') await requireUp(choice.network);
    if ((choice.mode === 'nat' || choice.mode === 'bridged') && process.platform !== 'darwin') {
      throw new TshyveError(
        'usage',
        `There is a network "${choice.mode}" only on macOS: give --tshyve-network user or shared.`,
      );
    }
    if (choice.mode === 'socket') await requirePeer(choice);
    if (choice.mode === 'user' && choice.network !== undefined) await requireUserSwitch();
  }

  /** A supervisor that was killed has left the machine's interface. */
  async #leaveNetwork(): Promise<void> {
    const choice = this.#config.Network.startsWith('shared') ? parseNetworkChoice(this.#config.Network) : undefined;
    if (choice?.mode !== 'shared') return;
    const { StorePath, MachineName } = this.#config;
    await detachTap(choice.network, macFor(StorePath, MachineName), MachineName);
  }

  async #withHostAddress(record: MachineRecord): Promise<MachineRecord> {
    const choice = parseNetworkChoice(this.#config.Network);
    if (record.hostAddress !== undefined || !hasLoopbackAddress(choice)) return record;
    return { ...record, hostAddress: await claimAddress(this.#layout.directory) };
  }

  /** Reaches the guest over SSH; a machine that dies on the way ends the wait at once. */
  async #awaitGuest(supervisor: SupervisorClient, operation: Operation, fresh: boolean): Promise<GuestSession> {
    const over = new AbortController();
    const networkUp = new AbortController();
    const sshUp = new AbortController();
    const dead = new AbortController();
    let addressed: () => void = () => undefined;
    const address = new Promise<void>((resolve) => {
      addressed = resolve;
    });
    const watching = supervisor
      .watch((event) => {
        operation.log.debug(`event ${event.name} ${event.argument} after ${String(event.atMs)} ms`);
        const milestone = fresh ? milestones.get(event.name) : undefined;
        if (milestone !== undefined) operation.log.info(milestone);
        if (event.name === 'address') networkUp.abort();
        if (event.name === 'ssh') sshUp.abort();
        if (event.name === 'lease') addressed();
      }, over.signal)
      .then(() => {
        if (!over.signal.aborted) dead.abort();
      });
    try {
      const signal = AbortSignal.any([operation.signal, dead.signal]);
      const begun = performance.now();
      const timeoutMs = this.#config.BootTimeout * 1000;
      if (!(await this.#isAddressed())) await within(address, timeoutMs, this.#leaseWait(), signal);
      const left = Math.max(timeoutMs - (performance.now() - begun), 1000);
      const guest = { networkUp: networkUp.signal, sshUp: sshUp.signal };
      return await this.#contact({ ...operation, signal }, left, guest);
    } catch (error) {
      if (operation.signal.aborted) throw error;
      const reason = dead.signal.aborted
        ? ((await lastExit(this.#reference)) ?? 'The virtual machine ended.')
        : undefined;
      if (reason === undefined && !TshyveError.is(error, 'timeout')) throw error;
      const kind = reason === undefined ? 'timeout' : 'hypervisor';
      const message = reason ?? messageOf(error);
      const diagnosis = reason === undefined ? await this.#diagnosis() : '';
      const sentences = [message, diagnosis, await this.#consoleTail()];
      throw new TshyveError(kind, sentences.filter((text) => text !== '').join(' '), { cause: error });
    } finally {
      over.abort();
      await watching;
    }
  }

  async #contact(operation: Operation, timeoutMs: number, guest?: ContactHints): Promise<GuestSession> {
    const record = await this.#requireMachine();
    const { hostAddress, hostPort } = await this.#forward('ssh');
    const address = {
      host: hostAddress,
      port: hostPort,
      username: this.#config.SSHUser,
      privateKey: await readFile(this.getSSHKeyPath(), 'utf8'),
      hostKey: record.hostKey,
    };
    const options = { timeoutMs, signal: operation.signal, ...(guest === undefined ? {} : { guest }) };
    return contactGuest(address, options);
  }

  async #consoleTail(): Promise<string> {
    const text = await readFile(this.#layout.consoleLog, 'latin1').catch(() => '');
    const lines = text
      .replace(/[^\x20-\x7e\n]/g, '')
      .split('\n')
      .filter((line) => line.trim() !== '');
    const tail = lines.slice(-CONSOLE_TAIL_LINES).join(' | ').slice(-1000);
    return tail === '' ? 'The guest wrote nothing to its console.' : `The guest's last console lines: ${tail}`;
  }

  async #stopRunning(operation: Operation): Promise<void> {
    let supervisor = await findSupervisor(this.#reference);
    if (supervisor === undefined) {
      if (!(await hasSavedState(this.#layout.directory))) return;
      // What a saved guest has not written yet is only in its memory.
      await this.#startExisting(operation);
      supervisor = await findSupervisor(this.#reference);
      if (supervisor === undefined) return;
    }
    operation.log.info('Shutting the guest down');
    if (await supervisor.stop(STOP_TIMEOUT_MS)) {
      operation.log.info(
        `The guest did not power off within ${String(STOP_TIMEOUT_MS / 1000)} s and was ended by force`,
      );
    }
  }

  /** Takes kernel and initrd out of the machine's ISO when it is new, or was replaced by docker-machine's upgrade. */
  async #installBootFiles(record: MachineRecord, signal: AbortSignal): Promise<MachineRecord> {
    const layout = this.#layout;
    if (!(await exists(layout.iso))) {
      throw new TshyveError(
        'image',
        `The machine's image ${layout.iso} is missing. "docker-machine upgrade" (or "tshyve upgrade") installs it again.`,
      );
    }
    const isoStamp = await imageStamp(layout.iso);
    const files = this.#config.Firmware ? [] : [layout.kernel, layout.initrd];
    const present = (await Promise.all(files.map(exists))).every((there) => there);
    if (present && record.boot !== undefined && record.isoStamp === isoStamp) return record;
    const updated = { ...record, isoStamp, boot: await this.#unpackBootFiles(layout.iso, signal) };
    await writeRecord(layout.record, updated);
    return updated;
  }

  async #unpackBootFiles(iso: string, signal: AbortSignal): Promise<NonNullable<MachineRecord['boot']>> {
    // Firmware takes what it needs from the image by itself.
    if (this.#config.Firmware) return { commandLine: '', needsIsoDisk: true };
    const { kernel, initrd } = this.#layout;
    const { commandLine, needsIsoDisk, volumeId } = await extractBootFiles(iso, kernel, initrd, signal);
    return { commandLine, needsIsoDisk, imageVersion: volumeId };
  }

  /**
   * What to launch: the saved state of a suspended machine, if there is one and it fits.
   * @throws TshyveError `precondition` when it does not fit; it is kept
   */
  async #launchRequest(spec: VmSpec): Promise<LaunchRequest> {
    const request = { ...this.#reference, hypervisor: this.#config.Hypervisor, spec, ...(await this.#guestWork(spec)) };
    const saved = await readSavedState(this.#layout.directory);
    if (saved === undefined) return request;
    const hypervisor = await selectHypervisor(saved.hypervisor);
    const reasons = await misfits(saved, spec, await hypervisor.probe());
    if (request.hypervisor !== 'auto' && request.hypervisor !== saved.hypervisor) {
      reasons.push(`The hypervisor was ${saved.hypervisor} then, and is ${request.hypervisor} now.`);
    }
    if (reasons.length > 0) {
      throw new TshyveError(
        'precondition',
        `The saved state of "${this.machineName}" does not fit any more. ${reasons.join(' ')} ${giveUp}`,
      );
    }
    const network = asBefore(spec.network, saved.forwards);
    return { ...request, hypervisor: saved.hypervisor, spec: { ...spec, network }, resume: true };
  }

  /** What the supervisor does in the guest. Where the machine has all its ports, there is nothing to forward. */
  async #guestWork({ network }: VmSpec): Promise<Pick<LaunchRequest, 'login' | 'forwardPublished'>> {
    const { hostKey } = await this.#requireMachine();
    const account = { username: this.#config.SSHUser, privateKeyFile: this.getSSHKeyPath() };
    const login = { ...account, ...(hostKey === undefined ? {} : { hostKey }) };
    return { login, forwardPublished: !this.#config.ManualPorts && 'forwards' in network };
  }

  async #spec(record: MachineRecord): Promise<VmSpec> {
    const config = this.#config;
    const layout = this.#layout;
    const shares = parseShares(config.Shares);
    const vsockPorts = parseVsockPorts(config.VSockPorts);
    const words = [
      record.boot?.commandLine ?? '',
      `tshyve.hostname=${config.MachineName}`,
      ...shareWords(shares),
      config.Rosetta ? `tshyve.rosetta=${ROSETTA_TAG}` : '',
      config.Cmdline,
    ];
    const extra = await Promise.all(
      config.ExtraDisks.map(async (disk, index) => {
        const own = layout.extraDisk(index);
        const path = disk.startsWith('/') && !(await exists(own)) ? disk : own;
        return { id: `extra-${String(index)}`, path, readOnly: false };
      }),
    );
    return {
      name: config.MachineName,
      uuid: record.uuid,
      cpus: config.CPU,
      memoryMiB: config.Memory,
      boot: {
        kernel: layout.kernel,
        initrd: layout.initrd,
        commandLine: words.filter((word) => word !== '').join(' '),
      },
      disks: [
        { id: 'data', path: layout.dataDisk, readOnly: false },
        ...extra,
        ...(record.boot?.needsIsoDisk === true ? [{ id: 'image', path: layout.iso, readOnly: true }] : []),
      ],
      network: await this.#network(record),
      ...(shares.length === 0
        ? {}
        : { shares: shares.map(({ tag, directory, readOnly }) => ({ tag, directory, readOnly })) }),
      ...(vsockPorts.length === 0 ? {} : { vsock: { directory: layout.vsock, ports: vsockPorts } }),
      ...(config.Firmware ? { firmware: { variableStore: layout.variableStore } } : {}),
      ...(config.Rosetta ? { rosettaTag: ROSETTA_TAG } : {}),
      ...(config.NestedVirtualization ? { nestedVirtualization: true } : {}),
    };
  }

  async #network(record: MachineRecord): Promise<NetworkSpec> {
    const config = this.#config;
    const nic = { mac: record.mac, hostname: config.MachineName };
    const services = { ssh: { name: 'ssh', guestPort: 22 }, docker: { name: 'docker', guestPort: 2376 } } as const;
    const choice = parseNetworkChoice(config.Network);
    if (choice.mode === 'shared' && !hasLoopbackAddress(choice)) {
      const { network } = choice;
      return { mode: 'tap', ...nic, network, interface: tapName(record.mac), services: Object.values(services) };
    }
    if (choice.mode === 'nat') return { mode: 'nat', ...nic, services: Object.values(services) };
    if (choice.mode === 'bridged') {
      return { mode: 'bridged', ...nic, interface: choice.interface, services: Object.values(services) };
    }
    if (choice.mode === 'socket') {
      const { framing, path } = choice;
      const offered = Object.values(services).map((service) => {
        const at = choice[service.name];
        return at === undefined ? service : { ...service, at };
      });
      return { mode: 'socket', ...nic, framing, path, services: offered };
    }
    if (record.hostAddress === undefined) throw new TshyveError('internal', 'The machine has no loopback address.');
    const ports = config.RequestedSSHPort > 0 ? [config.RequestedSSHPort] : await sshPorts();
    const forwards = [
      { ...services.ssh, hostPorts: ports },
      { ...services.docker, hostPorts: dockerPorts },
      ...(record.ports ?? []).map(({ protocol, hostPort, guestPort }) => {
        return { name: ADDED, protocol, guestPort, hostPorts: [hostPort] };
      }),
    ];
    const { hostAddress } = record;
    const { network } = choice;
    if (choice.mode === 'shared') {
      const { network: name } = choice;
      return { mode: 'namespace', ...nic, network: name, interface: tapName(record.mac), hostAddress, forwards };
    }
    if (network === undefined) return { mode: 'user', ...nic, hostAddress, forwards };
    return { mode: 'switch', ...nic, network, ...portSockets(network, record.mac), hostAddress, forwards };
  }

  #extras(): Extras {
    const { Shares, Rosetta, NestedVirtualization, Network, Firmware, VSockPorts } = this.#config;
    return {
      shares: Shares.length > 0,
      rosetta: Rosetta,
      nestedVirtualization: NestedVirtualization,
      bridged: parseNetworkChoice(Network).mode === 'bridged',
      firmware: Firmware,
      vsock: VSockPorts.length > 0,
    };
  }

  async #localImage(operation: Operation) {
    const source = parseImageSource(this.#config.Boot2DockerURL, this.#config.ImageSHA256);
    await requireSourceFile(source);
    return resolveImage(source, join(tshyveHome(), 'cache', 'images'), operation);
  }

  /** Deletes all that is ours in the machine folder. */
  async #deleteFiles(): Promise<void> {
    const directory = this.#layout.directory;
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await makePrivateDirectory(directory);
    const names = (await readdir(directory)).filter((name) => !isClientFile(name));
    await Promise.all(names.map((name) => rm(join(directory, name), { recursive: true, force: true })));
  }
}

/** On a network that needs no root, a machine has a loopback address for itself, whose ports lead to it. */
function hasLoopbackAddress(choice: NetworkChoice): boolean {
  return choice.mode === 'user' || (choice.mode === 'shared' && networkPlace(choice.network).rootless);
}

/** The network with the ports or the address that clients know from before the machine was suspended. */
function asBefore(network: NetworkSpec, forwards: readonly PortForward[]): NetworkSpec {
  if (network.mode === 'socket' && network.services.some(({ at }) => at !== undefined)) return network;
  if (!('forwards' in network)) {
    const address = forwards[0]?.hostAddress;
    return address === undefined ? network : { ...network, address };
  }
  return {
    ...network,
    forwards: network.forwards.map((forward) => {
      if (forward.name === ADDED) return forward;
      const before = forwards.find(({ name }) => name === forward.name);
      return before === undefined ? forward : { ...forward, hostPorts: [before.hostPort, ...forward.hostPorts] };
    }),
  };
}

/** A record that makes the next start look at the ISO again. */
function withoutStamp(record: MachineRecord): MachineRecord {
  const { isoStamp: _, ...rest } = record;
  return rest;
}

/** Names what is missing of a damaged machine, before a hypervisor or an SSH client says it less clearly. */
async function requireFiles(paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    if (await exists(path)) continue;
    throw new TshyveError(
      'precondition',
      `The machine's file ${path} is missing. Restore it from a backup, or remove the machine.`,
    );
  }
}
