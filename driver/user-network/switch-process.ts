import { type FSWatcher, existsSync, watch } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { type Server as SocketServer, createServer } from 'node:net';
import { join } from 'node:path';

import { Server, ServerCredentials } from '@grpc/grpc-js';

import { type FileLock, TshyveError, listenPrivately, lockFile, makeRunDirectory, messageOf } from '../base/index.js';
import { streaming, unary } from '../grpc/index.js';
import { type PortForward, type UserSwitch, openUserSwitch, protocols } from '../hypervisor/index.js';
import { AddressBook } from './addresses.js';
import {
  type AttachEvent,
  type AttachRequest,
  type Forward,
  type UserNetworkServer,
  UserNetworkService,
} from './generated/user_network.js';
import { type UserNetworkPlace, belongsToSwitch, portSockets } from './place.js';

const DOMAIN = 'tshyve.internal';
const HOST_NAMES = ['host.docker.internal', 'host.minikube.internal', 'host.tshyve.internal'];
/** A guest may ask for its address without end; what goes beyond is not told. */
const LEASE_INTERVAL_MS = 1_000;
/** How long nobody may be here: a machine that restarts leaves for a moment. */
const LINGER_MS = 3_000;
const FIRST_MACHINE_MS = 30_000;

interface Member {
  readonly address: string;
  readonly send: (event: AttachEvent) => void;
  /** Ends its call. */
  readonly leave: () => void;
  lastLease: number;
}

/**
 * Owns the switch of one user-mode network. It is there as long as machines are, and one of them starts it again if it
 * dies. Needs no privilege.
 */
export class SwitchProcess {
  readonly #place: UserNetworkPlace;
  readonly #lock: FileLock;
  readonly #log: (line: string) => void;
  readonly #members = new Map<string, Member>();
  readonly #network: UserSwitch;
  readonly #addresses: AddressBook;
  #ended: (reason: string) => void = () => undefined;
  #listener: SocketServer | undefined;
  #watcher: FSWatcher | undefined;
  #idle: NodeJS.Timeout | undefined;
  /** Joining and leaving happen one after the other. */
  #last: Promise<unknown> = Promise.resolve();
  /** Settles with the reason when there is nothing left to do. */
  readonly ended: Promise<string>;

  private constructor(
    place: UserNetworkPlace,
    lock: FileLock,
    network: UserSwitch,
    addresses: AddressBook,
    log: (line: string) => void,
  ) {
    this.#place = place;
    this.#lock = lock;
    this.#network = network;
    this.#addresses = addresses;
    this.#log = log;
    this.ended = new Promise((resolve) => {
      this.#ended = resolve;
    });
  }

  /**
   * Takes the network's lock and serves. What a dead process has left is cleared away.
   * @throws TshyveError `busy` when another process serves it
   */
  static async start(place: UserNetworkPlace, log: (line: string) => void): Promise<SwitchProcess> {
    await makeRunDirectory(place.id);
    const lock = await lockFile(place.lock);
    for (const file of await readdir(place.folder)) if (belongsToSwitch(file)) await rm(join(place.folder, file));
    let onLease: (mac: string) => void = () => undefined;
    const network = await openUserSwitch({ domain: DOMAIN, hosts: HOST_NAMES.map((name) => ({ name })) }, (event) => {
      if (event.type === 'log') log(event.line);
      else onLease(event.mac);
    });
    const self = new SwitchProcess(place, lock, network, await AddressBook.open(place.addresses), log);
    onLease = (mac) => {
      self.#onLease(mac);
    };
    await self.#listen();
    return self;
  }

  /** Ends the network; machines that are on it notice and start it again. */
  async close(): Promise<void> {
    clearTimeout(this.#idle);
    this.#watcher?.close();
    this.#listener?.close();
    await rm(this.#place.socket, { force: true });
    await this.#network.close();
    await this.#lock.release();
  }

  async #listen(): Promise<void> {
    const server = new Server();
    server.addService(UserNetworkService, this.#methods());
    const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
    this.#listener = createServer((socket) => {
      socket.on('error', () => undefined);
      injector.injectConnection(socket);
    });
    await listenPrivately(this.#listener, this.#place.socket);
    this.#endIfIdle(FIRST_MACHINE_MS);
    // A cleaner of /tmp took the sockets: machines come back to a new process.
    this.#watcher = watch(this.#place.folder, () => {
      if (!existsSync(this.#place.socket)) this.#ended('Its socket was deleted.');
    });
    this.#watcher.on('error', () => undefined);
  }

  #methods(): UserNetworkServer {
    return {
      attach: streaming((request: AttachRequest, send: (event: AttachEvent) => void, signal) => {
        return this.#attach(request, send, signal);
      }),
      addForward: unary(async (request: Forward) => {
        const { forward, address } = this.#forward(request);
        return { hostPort: await this.#network.addForward(forward, address) };
      }),
      removeForward: unary(async (request: Forward) => {
        const { forward, address } = this.#forward(request);
        await this.#network.removeForward(forward, address);
        return {};
      }),
    };
  }

  async #attach(
    { mac, hostname }: AttachRequest,
    send: (event: AttachEvent) => void,
    signal: AbortSignal,
  ): Promise<void> {
    let leave: () => void = () => undefined;
    const left = new Promise<void>((resolve) => {
      leave = resolve;
    });
    signal.addEventListener('abort', leave, { once: true });
    const member = await this.#inTurn(() => this.#join(mac, hostname, send, leave));
    await left;
    await this.#inTurn(() => this.#leave(mac, member));
  }

  async #join(mac: string, hostname: string, send: (event: AttachEvent) => void, leave: () => void): Promise<Member> {
    clearTimeout(this.#idle);
    const before = this.#members.get(mac);
    if (before !== undefined) {
      // Its supervisor died and has a successor already.
      before.leave();
      await this.#leave(mac, before);
    }
    try {
      const address = await this.#addresses.claim(mac, new Set(this.#members.keys()));
      const { machineSocket, switchSocket } = portSockets(this.#place.name, mac);
      await this.#network.addMachine({ mac, address, hostname, localPath: switchSocket, path: machineSocket });
      const member = { address, send, leave, lastLease: -LEASE_INTERVAL_MS };
      this.#members.set(mac, member);
      this.#log(`${hostname} (${mac}) is here as ${address}`);
      send({ name: 'attached', address });
      return member;
    } catch (error) {
      this.#log(`${hostname} (${mac}) cannot come: ${messageOf(error)}`);
      this.#endIfIdle(LINGER_MS);
      throw error;
    }
  }

  async #leave(mac: string, member: Member): Promise<void> {
    if (this.#members.get(mac) !== member) return;
    this.#members.delete(mac);
    this.#log(`${mac} has left`);
    await this.#network.removeMachine(mac);
    this.#endIfIdle(LINGER_MS);
  }

  #endIfIdle(afterMs: number): void {
    clearTimeout(this.#idle);
    if (this.#members.size > 0) return;
    this.#idle = setTimeout(() => {
      this.#ended('The last machine has left.');
    }, afterMs);
  }

  #onLease(mac: string): void {
    const member = this.#members.get(mac);
    const now = performance.now();
    if (member === undefined || now - member.lastLease < LEASE_INTERVAL_MS) return;
    member.lastLease = now;
    member.send({ name: 'lease', address: member.address });
  }

  /** @throws TshyveError `not-found`, `usage` */
  #forward({ mac, protocol, ...ports }: Forward): { forward: PortForward; address: string } {
    const address = this.#members.get(mac)?.address;
    if (address === undefined) throw new TshyveError('not-found', `No machine ${mac} is on this network.`);
    const known = protocols.find((candidate) => candidate === protocol);
    if (known === undefined) throw new TshyveError('usage', `"${protocol}" is not tcp or udp.`);
    return { address, forward: { name: '', protocol: known, ...ports } };
  }

  #inTurn<T>(change: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(change, change);
    this.#last = turn.catch(() => undefined);
    return turn;
  }
}
