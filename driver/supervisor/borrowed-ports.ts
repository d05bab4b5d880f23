import { Socket as DatagramSocket, createSocket } from 'node:dgram';
import { Server, Socket, connect, createServer } from 'node:net';

import * as v from 'valibot';

import { TshyveError, within } from '../base/index.js';
import type { PortBinder, PortForward } from '../hypervisor/index.js';
import { type BorrowAnswer, type BorrowRequest, borrowAnswer } from './port-lender.js';

const TIMEOUT_MS = 10_000;
const CONNECT_TIMEOUT_MS = 10_000;
/** A guest, or a client, may be slow; nobody may hold connections without end. */
const MAX_CONNECTIONS = 1_024;
const MAX_UDP_CLIENTS = 256;
const UDP_IDLE_MS = 60_000;

type Lent = Server | DatagramSocket;

/**
 * Host ports of a machine in a network namespace. The supervisor is in there with it; its parent is on the host and opens
 * the ports (see `superviseInside`). What arrives is carried to the guest's own address.
 */
export class BorrowedPorts implements PortBinder {
  readonly #guest: () => string | undefined;
  readonly #waiting = new Map<number, (answer: BorrowAnswer['result'], socket: unknown) => void>();
  readonly #bound = new Map<string, { close: () => void }>();
  #last = 0;

  /** @param guest the address of the machine, once it is known */
  constructor(guest: () => string | undefined) {
    this.#guest = guest;
    process.on('message', this.#onMessage);
  }

  readonly #onMessage = (message: unknown, socket: unknown) => {
    const parsed = v.safeParse(borrowAnswer, message);
    if (!parsed.success) return;
    this.#waiting.get(parsed.output.borrow)?.(parsed.output.result, socket);
    this.#waiting.delete(parsed.output.borrow);
  };

  async bind({ protocol, hostAddress, hostPort, guestPort }: PortForward): Promise<number> {
    const { port, socket } = await this.#borrow({ protocol, address: hostAddress, port: hostPort });
    const forward =
      socket instanceof DatagramSocket
        ? forwardDatagrams(socket, guestPort, this.#guest)
        : forwardConnections(socket, guestPort, this.#guest);
    this.#bound.set(`${String(port)}/${protocol}`, forward);
    return port;
  }

  unbind({ hostPort, protocol }: PortForward): Promise<void> {
    const key = `${String(hostPort)}/${protocol}`;
    const bound = this.#bound.get(key);
    if (bound === undefined) return Promise.reject(new TshyveError('not-found', `Port ${key} is not forwarded.`));
    this.#bound.delete(key);
    bound.close();
    return Promise.resolve();
  }

  close(): void {
    process.off('message', this.#onMessage);
    for (const { close } of this.#bound.values()) close();
    this.#bound.clear();
  }

  async #borrow(wanted: Omit<BorrowRequest, 'borrow'>): Promise<{ port: number; socket: Lent }> {
    const borrow = ++this.#last;
    const answered = new Promise<{ result: BorrowAnswer['result']; socket: unknown }>((resolve, reject) => {
      this.#waiting.set(borrow, (result, socket) => {
        resolve({ result, socket });
      });
      const gone = () => {
        reject(
          new TshyveError(
            'precondition',
            'The process that opens ports on the host for this machine has ended. Restart the machine.',
          ),
        );
      };
      if (!process.connected) gone();
      else
        process.send?.({ borrow, ...wanted } satisfies BorrowRequest, undefined, {}, (error) => {
          if (error !== null) gone();
        });
    });
    try {
      const { result, socket } = await within(answered, TIMEOUT_MS, 'a port of the host');
      if ('code' in result) {
        throw new TshyveError(result.code === 'EADDRINUSE' ? 'busy' : 'precondition', result.message);
      }
      if (socket instanceof Server || socket instanceof DatagramSocket) return { port: result.port, socket };
      throw new TshyveError('internal', 'A port of the host came without its socket.');
    } finally {
      this.#waiting.delete(borrow);
    }
  }
}

function forwardConnections(lent: Server, guestPort: number, guest: () => string | undefined) {
  const open = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
    const address = guest();
    client.on('error', () => undefined);
    // It has no address yet: as if nobody listened.
    if (address === undefined) {
      client.resetAndDestroy();
      return;
    }
    const target = connect({ host: address, port: guestPort, allowHalfOpen: true, noDelay: true });
    target.setTimeout(CONNECT_TIMEOUT_MS, () => target.destroy());
    target.once('connect', () => target.setTimeout(0));
    for (const [one, other] of [
      [client, target],
      [target, client],
    ] as const) {
      open.add(one);
      one.on('error', () => other.resetAndDestroy());
      one.on('close', () => {
        open.delete(one);
        // Both directions were ended properly, or neither can go on.
        if (!one.readableEnded || !one.writableFinished) other.destroy();
      });
    }
    client.pipe(target);
    target.pipe(client);
  });
  server.maxConnections = MAX_CONNECTIONS;
  server.on('error', () => undefined);
  // Only this one accepts from now on.
  server.listen(lent);
  return {
    close: () => {
      server.close();
      for (const socket of open) socket.destroy();
    },
  };
}

function forwardDatagrams(lent: DatagramSocket, guestPort: number, guest: () => string | undefined) {
  const clients = new Map<string, { socket: DatagramSocket; timer: NodeJS.Timeout }>();
  const drop = (key: string) => {
    const known = clients.get(key);
    clients.delete(key);
    clearTimeout(known?.timer);
    known?.socket.close();
  };
  lent.on('error', () => undefined);
  lent.on('message', (bytes, client) => {
    const address = guest();
    if (address === undefined) return;
    const key = `${client.address}:${String(client.port)}`;
    let known = clients.get(key);
    if (known === undefined) {
      const [oldest] = clients.keys();
      if (clients.size >= MAX_UDP_CLIENTS && oldest !== undefined) drop(oldest);
      const socket = createSocket('udp4');
      socket.on('error', () => {
        drop(key);
      });
      socket.on('message', (answer, from) => {
        if (from.address === guest() && from.port === guestPort) lent.send(answer, client.port, client.address);
      });
      known = {
        socket,
        timer: setTimeout(() => {
          drop(key);
        }, UDP_IDLE_MS),
      };
      clients.set(key, known);
    }
    known.timer.refresh();
    known.socket.send(bytes, guestPort, address);
  });
  return {
    close: () => {
      lent.close();
      for (const key of [...clients.keys()]) drop(key);
    },
  };
}
