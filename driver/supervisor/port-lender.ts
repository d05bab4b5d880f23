import { type ChildProcess, spawn } from 'node:child_process';
import { type Socket as DatagramSocket, createSocket } from 'node:dgram';
import { once } from 'node:events';
import { closeSync } from 'node:fs';
import { constants, homedir } from 'node:os';
import { type Server, createServer } from 'node:net';
import { isSea } from 'node:sea';

import * as v from 'valibot';

import { ANSWER_FD, codeOf, messageOf, ownProgram, runRoot, tshyveHome } from '../base/index.js';
import { protocols } from '../hypervisor/index.js';

/** What a supervisor in a namespace asks its parent on the host for. */
export const borrowRequest = v.object({
  borrow: v.pipe(v.number(), v.integer()),
  protocol: v.picklist(protocols),
  address: v.pipe(v.string(), v.ipv4(), v.startsWith('127.')),
  port: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(65_535)),
});
export type BorrowRequest = v.InferOutput<typeof borrowRequest>;

/** The answer; with `port` comes the listening socket. */
export const borrowAnswer = v.object({
  borrow: v.number(),
  result: v.union([v.object({ port: v.number() }), v.object({ code: v.string(), message: v.string() })]),
});
export type BorrowAnswer = v.InferOutput<typeof borrowAnswer>;

/**
 * Runs the supervisor proper in the network namespace of its machine's network, and stays on the host to open the ports
 * there by which the machine is reached. A socket belongs to the namespace it was made in, whoever holds it (unix(7),
 * SCM_RIGHTS): the other side accepts connections from the host and has the guest within reach.
 * @param request the launch request as it came
 * @returns the exit code of the supervisor proper
 */
export async function superviseInside(namespacePid: number, request: string): Promise<number> {
  const { file, args } = ownProgram('tshyve-vmm');
  const entry = ['--target', String(namespacePid), '--user', '--net', '--preserve-credentials'];
  const child = spawn('nsenter', [...entry, '--', file, ...args, '--launch'], {
    stdio: ['pipe', 'inherit', 'inherit', ANSWER_FD, 'ipc'],
    env: {
      ...process.env,
      // It is root in there, with other defaults than ours.
      HOME: homedir(),
      TSHYVE_HOME: tshyveHome(),
      TSHYVE_RUN_DIR: runRoot(),
      ...(isSea() ? { TSHYVE_PROGRAM: 'tshyve-vmm' } : {}),
    },
  });
  child.stdin?.on('error', () => undefined);
  child.stdin?.end(request);
  // Whoever started us waits for its end, and only the other may answer.
  child.once('spawn', () => {
    closeSync(ANSWER_FD);
  });
  child.on('message', (message) => {
    const parsed = v.safeParse(borrowRequest, message);
    if (parsed.success) void lend(child, parsed.output);
  });
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => child.kill(signal));
  const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
  return code ?? 128 + (signal === null ? 0 : constants.signals[signal]);
}

async function lend(child: ChildProcess, request: BorrowRequest): Promise<void> {
  const { borrow } = request;
  const answer = (result: BorrowAnswer['result'], socket?: Server | DatagramSocket) => {
    // Ours is closed once the other has its own.
    child.send({ borrow, result }, socket, () => socket?.close());
  };
  try {
    const socket = await listen(request);
    const bound = socket.address();
    answer({ port: typeof bound === 'object' && bound !== null ? bound.port : 0 }, socket);
  } catch (error) {
    answer({ code: codeOf(error) ?? '', message: messageOf(error) });
  }
}

async function listen({ protocol, address, port }: BorrowRequest): Promise<Server | DatagramSocket> {
  if (protocol === 'udp') {
    const socket = createSocket('udp4');
    socket.bind({ port, address, exclusive: true });
    await once(socket, 'listening');
    return socket;
  }
  const server = createServer();
  server.listen({ port, host: address, exclusive: true });
  await once(server, 'listening');
  return server;
}
