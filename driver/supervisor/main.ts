import type { Socket } from 'node:net';

import { TshyveError, answerFailure, answerReady, messageOf } from '../base/index.js';
import { namespaceToEnter } from '../network/index.js';
import { GuardedFiles } from './guarded-files.js';
import { supervisorPlace } from './place.js';
import { superviseInside } from './port-lender.js';
import { RotatingLog } from './rotating-log.js';
import { Supervisor } from './supervisor.js';
import { type LaunchRequest, parseLaunchRequest } from './types.js';

/** How long the guest may take when the host shuts down or somebody ends us politely. */
const TERMINATION_TIMEOUT_MS = 60_000;
const MAX_LOG_BYTES = 1 << 20;
/** A launch request is some kilobytes. */
const MAX_REQUEST_BYTES = 1 << 20;

const usage = `tshyve-vmm: the supervisor of one running machine

It is started by tshyve and docker-machine-driver-tshyve, takes its launch request on standard input, and is not meant
to be started by hand. "tshyve ls" shows the machines that run.
`;

/** The process behind `tshyve-vmm`: lives as long as its virtual machine. */
export async function main(argv: readonly string[]): Promise<void> {
  if (argv[0] !== '--launch') {
    (argv[0] === '--help' || argv[0] === '-h' ? process.stdout : process.stderr).write(usage);
    process.exitCode = argv[0] === '--help' || argv[0] === '-h' ? 0 : 2;
    return;
  }
  process.title = 'tshyve-vmm';
  process.on('SIGHUP', () => undefined);
  try {
    const { text, request } = await readRequest();
    const namespace =
      request.spec.network.mode === 'namespace' ? await namespaceToEnter(request.spec.network.network) : undefined;
    if (namespace === undefined) await supervise(request);
    else process.exit(await superviseInside(namespace, text));
  } catch (error) {
    log(`launch failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
    answerFailure(error);
    process.exit(1);
  }
}

let rotatingLog: RotatingLog | undefined;

async function supervise(request: LaunchRequest): Promise<void> {
  const place = supervisorPlace(request);
  // A connection that arrives before gRPC is loaded waits here.
  let serve: ((socket: Socket) => void) | undefined;
  const waiting: Socket[] = [];
  const files = await GuardedFiles.lock({
    place,
    id: request.id,
    log,
    onConnection: (socket) => {
      if (serve === undefined) waiting.push(socket);
      else serve(socket);
    },
    onRunFolder: () => supervisor.publish(),
    onMachineDeleted: () => {
      log('The machine was deleted; ending it.');
      end(supervisor.kill());
    },
  });
  const leave = (code: number) => {
    files.close();
    process.exit(code);
  };
  // Only whoever holds the lock writes the logs.
  rotatingLog = new RotatingLog(place.supervisorLog, MAX_LOG_BYTES);
  const supervisor = new Supervisor(request, place, log);
  let gone = false;
  supervisor.once('gone', () => {
    gone = true;
    // Answers under way (a Stop, the last event) still have to leave.
    setTimeout(() => {
      leave(0);
    }, 50);
  });
  const end = (ending: Promise<unknown>) => {
    ending.catch((error: unknown) => {
      log(`end: ${messageOf(error)}`);
      if (!gone) leave(1);
    });
  };
  process.on('SIGTERM', () => {
    end(supervisor.stop(TERMINATION_TIMEOUT_MS));
  });
  try {
    await files.listen();
    await supervisor.launch();
    // Only now: loading gRPC takes as long as starting a hypervisor, and the guest boots meanwhile.
    const { serveSupervisor } = await import('./grpc-server.js');
    serve = serveSupervisor(supervisor);
    for (const socket of waiting) serve(socket);
  } catch (error) {
    files.close();
    throw error;
  }
  answerReady();
}

async function readRequest(): Promise<{ text: string; request: LaunchRequest }> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of process.stdin) {
    chunks.push(chunk as Buffer);
    size += (chunk as Buffer).length;
    if (size > MAX_REQUEST_BYTES) throw new TshyveError('protocol', 'The launch request is too long.');
  }
  const text = Buffer.concat(chunks).toString('utf8');
  const request = parseLaunchRequest(text);
  if (request === undefined) {
    throw new TshyveError('protocol', 'The launch request is incomplete: its sender is gone.');
  }
  return { text, request };
}

/** Writes to standard error, which is vmm.log, until the machine folder is ours; then with rotation. */
function log(line: string): void {
  const text = `${new Date().toISOString()} ${line}\n`;
  if (rotatingLog === undefined) process.stderr.write(text);
  else rotatingLog.write(Buffer.from(text));
}
