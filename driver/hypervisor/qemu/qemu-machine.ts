import { type ChildProcess, spawn } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';

import { TshyveError, checkSocketPath, codeOf, messageOf, sleep, within } from '../../base/index.js';
import type { LaunchOptions, VirtualMachine, VmExit } from '../hypervisor.js';
import { ForwardTable, type HostPort, noForwards } from '../forwards.js';
import { serveShares } from '../virtiofsd.js';
import type { PortForward, PortForwardSpec, VmSpec } from '../vm-spec.js';
import { type Accelerator, qemuArguments } from './arguments.js';
import type { QemuProgram } from './binary.js';
import { prepareFirmware } from './firmware.js';
import { qemuPorts } from './forwards.js';
import { type QmpEvent, QmpClient } from './qmp.js';
import { FrameRelay } from './relay/index.js';
import { restoreMachine, saveMachine } from './snapshot.js';

const START_TIMEOUT_MS = 20_000;
const QUIT_TIMEOUT_MS = 5_000;
/** Bytes of QEMU's own messages kept for error texts. */
const MAX_STDERR_BYTES = 8_192;

/** Starts QEMU and resolves once the guest runs. */
export async function launchQemu(
  qemu: QemuProgram,
  accelerator: Accelerator,
  spec: VmSpec,
  options: LaunchOptions,
): Promise<VirtualMachine> {
  const qmpSocket = checkSocketPath(join(options.runDirectory, 'qmp.sock'));
  const frameSocket = checkSocketPath(join(options.runDirectory, 'net.sock'));
  await Promise.all([qmpSocket, frameSocket].map((path) => rm(path, { force: true })));
  const { restoreFrom } = options;
  const firmware = spec.firmware === undefined ? undefined : await prepareFirmware(qemu, spec.firmware);
  const relay = await startRelay(spec, frameSocket, options);
  const { architecture } = qemu;
  const sockets = { qmp: qmpSocket, frames: frameSocket };
  const served = await serveShares(spec.shares ?? [], options).catch(async (error: unknown) => {
    await relay?.close();
    throw error;
  });
  const { shares } = served;
  const args = qemuArguments(spec, accelerator, sockets, { architecture, mac: relay?.mac, shares, firmware });
  if (restoreFrom !== undefined) args.push('-incoming', 'defer');
  const process_ = new QemuProcess(qemu.path, args, options);
  void process_.ended.then(async () => {
    await Promise.all([relay?.close(), served.close(), rm(frameSocket, { force: true })]);
  });
  try {
    const qmp = await within(
      connectQmp(qmpSocket, process_, options.signal),
      START_TIMEOUT_MS,
      'QEMU to open its control socket',
      options.signal,
    );
    const ports = spec.network.mode === 'user' ? new ForwardTable(spec.network.hostAddress, qemuPorts(qmp)) : undefined;
    const machine = new QemuMachine(process_, qmp, accelerator, options, ports);
    if (restoreFrom !== undefined) await restoreMachine(qmp, options.runDirectory, restoreFrom);
    if (spec.network.mode === 'user') for (const forward of spec.network.forwards) await machine.addForward(forward);
    await options.beforeStart?.();
    await qmp.execute('cont');
    return machine;
  } catch (error) {
    process_.child.kill('SIGKILL');
    const exit = await process_.ended;
    if (TshyveError.is(error, 'cancelled') || TshyveError.is(error, 'precondition')) throw error;
    const said = process_.lastWords();
    throw new TshyveError('hypervisor', `QEMU did not start: ${said === '' ? `${messageOf(error)} (${exit})` : said}`, {
      cause: error,
    });
  }
}

/** QEMU itself sends datagrams to whoever has the peer's name; a stream needs somebody who connects again. */
async function startRelay(spec: VmSpec, socket: string, options: LaunchOptions): Promise<FrameRelay | undefined> {
  const { network, uuid } = spec;
  if (network.mode !== 'socket' || network.framing === 'datagram') return undefined;
  const onAddress = (address: string) => options.onAddress?.(address);
  const onProblem = (problem: string) => options.onProblem?.(problem);
  return FrameRelay.start({ network, uuid, socket, log: options.log, onAddress, onProblem });
}

/** The operating system's side: the process, its console and what it complained about. */
class QemuProcess {
  readonly child: ChildProcess;
  /** Resolves with how it ended, in words. */
  readonly ended: Promise<string>;
  hasEnded = false;
  #stderr = Buffer.alloc(0);

  constructor(qemu: string, args: readonly string[], options: LaunchOptions) {
    // Linux: QEMU must not outlive the supervisor, however that dies.
    const [program, programArgs] =
      process.platform === 'linux' ? ['setpriv', ['--pdeathsig', 'KILL', '--', qemu, ...args]] : [qemu, [...args]];
    this.child = spawn(program, programArgs, { cwd: '/', env: cleanEnvironment(), stdio: ['pipe', 'pipe', 'pipe'] });
    this.child.stdin?.on('error', () => undefined);
    this.child.stdout?.on('data', options.onConsole);
    this.child.stderr?.on('data', (chunk: Buffer) => {
      this.#stderr = Buffer.concat([this.#stderr, chunk]).subarray(-MAX_STDERR_BYTES);
      options.log.debug(`qemu: ${chunk.toString('utf8').trimEnd()}`);
    });
    this.ended = new Promise((resolve) => {
      const end = (how: string) => {
        this.hasEnded = true;
        resolve(how);
      };
      this.child.once('error', (error) => {
        const missing = codeOf(error) === 'ENOENT';
        end(missing ? `${program} was not found; install it` : error.message);
      });
      this.child.once('close', (code, signal) => {
        end(signal === null ? `exit code ${String(code)}` : `signal ${signal}`);
      });
    });
  }

  lastWords(): string {
    const lines = this.#stderr.toString('utf8').split('\n');
    // TCG's `-cpu max` names features it lacks; that is no fault.
    const relevant = lines.filter((line) => line.trim() !== '' && !line.includes('warning:'));
    return relevant.slice(-4).join(' ').trim();
  }
}

class QemuMachine implements VirtualMachine {
  readonly accelerator: string;
  readonly exited: Promise<VmExit>;
  readonly #ports: ForwardTable | undefined;
  readonly #process: QemuProcess;
  readonly #qmp: QmpClient;
  readonly #runDirectory: string;
  #shutdownReason: string | undefined;
  #killed = false;

  constructor(
    process_: QemuProcess,
    qmp: QmpClient,
    accelerator: string,
    { runDirectory, log }: Pick<LaunchOptions, 'runDirectory' | 'log'>,
    ports: ForwardTable | undefined,
  ) {
    this.#ports = ports;
    this.#runDirectory = runDirectory;
    this.#process = process_;
    this.#qmp = qmp;
    this.accelerator = accelerator;
    qmp.on('event', (event: QmpEvent) => {
      const reason = event.data['reason'];
      if (event.event === 'SHUTDOWN') this.#shutdownReason = typeof reason === 'string' ? reason : 'unknown';
      // Asked for, or after a triple fault: QEMU does not tell which.
      if (event.event === 'RESET') log.info('The guest restarts.');
    });
    this.exited = process_.ended.then((how) => this.#classify(how));
  }

  get pid(): number | undefined {
    return this.#process.child.pid;
  }

  get forwards(): readonly PortForward[] {
    return this.#ports?.forwards ?? [];
  }

  async addForward(spec: PortForwardSpec): Promise<PortForward> {
    if (this.#ports === undefined) throw noForwards();
    return this.#ports.add(spec);
  }

  async removeForward(port: HostPort): Promise<void> {
    if (this.#ports === undefined) throw noForwards();
    await this.#ports.remove(port);
  }

  async pressPowerButton(): Promise<void> {
    await this.#qmp.execute('system_powerdown');
  }

  async pause(): Promise<void> {
    await this.#qmp.execute('stop');
  }

  async resume(): Promise<void> {
    await this.#qmp.execute('cont');
  }

  async save(folder: string): Promise<void> {
    await saveMachine(this.#qmp, this.#runDirectory, folder);
  }

  async kill(): Promise<void> {
    this.#killed = true;
    // quit flushes and closes the disk images; a hanging QEMU is ended the hard way.
    await this.#qmp.execute('quit').catch(() => undefined);
    await within(this.exited, QUIT_TIMEOUT_MS, 'QEMU to quit').catch(() => this.#process.child.kill('SIGKILL'));
    await this.exited;
  }

  #classify(how: string): VmExit {
    this.#qmp.close();
    if (this.#killed) return { reason: 'killed', detail: 'The machine was ended by request.' };
    if (this.#shutdownReason === 'guest-shutdown') return { reason: 'shutdown', detail: 'The guest powered off.' };
    const said = this.#process.lastWords();
    return { reason: 'crashed', detail: `QEMU ended unexpectedly (${how})${said === '' ? '' : `: ${said}`}.` };
  }
}

/** Connects as soon as QEMU listens; gives up when QEMU has ended. */
async function connectQmp(path: string, process_: QemuProcess, signal?: AbortSignal): Promise<QmpClient> {
  for (;;) {
    if (process_.hasEnded) throw new TshyveError('hypervisor', `QEMU ended at once: ${await process_.ended}`);
    const qmp = await tryConnect(path);
    if (qmp !== undefined) {
      await qmp.handshake(signal);
      return qmp;
    }
    // QEMU tells nobody when its socket is there; it takes some tens of milliseconds.
    await sleep(5, signal);
  }
}

function tryConnect(path: string): Promise<QmpClient | undefined> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('error', () => {
      resolve(undefined);
    });
    socket.once('connect', () => {
      resolve(new QmpClient(socket));
    });
  });
}

/** QEMU needs little, and nothing of what plugins and Node are told by environment. */
function cleanEnvironment(): NodeJS.ProcessEnv {
  const kept = ['PATH', 'HOME', 'LANG', 'TMPDIR', 'XDG_RUNTIME_DIR'];
  return Object.fromEntries(
    kept.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]])),
  );
}
