import { chmod, chown, mkdir, readFile, readdir, rm } from 'node:fs/promises';
import { type Server, type Socket, createServer } from 'node:net';

import { type Log, TshyveError, listenPrivately, messageOf } from '../../base/index.js';
import type { Permitted } from './accounts.js';
import type { NetworkPlace } from './definition.js';
import { ownScope } from './scope.js';
import { MAX_LINE_BYTES, type Principal, type TapAnswer, accessSocket, parsePetition } from './tap-requests.js';
import { machineOf, makeTap, removeTap, tapOwner } from './taps.js';

const REQUEST_TIMEOUT_MS = 5_000;
const MAX_CONNECTIONS = 32;
/** A user's machines on one network; 190 addresses are there for all. */
const MAX_TAPS = 64;

/**
 * The keeper's ear for those who may attach machines without being root. Each user and group has a socket of its own
 * that the kernel opens to nobody else, so that who asks is known by where they ask (unix(7): connecting takes write
 * permission). Everybody can have interfaces of their own made and removed, and no others.
 */
export class TapService {
  readonly #network: string;
  readonly #place: NetworkPlace;
  readonly #log: Log;
  readonly #servers = new Map<string, Server>();
  readonly #open = new Set<Socket>();
  /** One request after the other: what is checked must still be true when it is done. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(network: string, place: NetworkPlace, log: Log) {
    this.#network = network;
    this.#place = place;
    this.#log = log;
  }

  /** Listens for these and nobody else, once what is under way is done. */
  permit(permitted: Permitted): Promise<void> {
    const turn = this.#last.then(() => this.#permit(permitted));
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  async #permit({ users, groups }: Permitted): Promise<void> {
    await mkdir(this.#place.access, { recursive: true, mode: 0o755 });
    const wanted = new Map<string, Principal>();
    for (const id of users) wanted.set(`user-${String(id)}`, { kind: 'user', id });
    for (const id of groups) wanted.set(`group-${String(id)}`, { kind: 'group', id });
    for (const [name, server] of this.#servers) {
      if (wanted.has(name)) continue;
      this.#servers.delete(name);
      server.close();
    }
    // Sockets of an earlier keeper, and of those who may no longer.
    for (const name of await readdir(this.#place.access)) {
      if (!this.#servers.has(name)) await rm(`${this.#place.access}/${name}`, { force: true });
    }
    for (const [name, principal] of wanted) {
      if (!this.#servers.has(name)) this.#servers.set(name, await this.#listen(principal));
    }
  }

  async close(): Promise<void> {
    for (const server of this.#servers.values()) server.close();
    this.#servers.clear();
    for (const socket of this.#open) socket.destroy();
    await this.#last;
    await rm(this.#place.access, { recursive: true, force: true });
  }

  async #listen(principal: Principal): Promise<Server> {
    const path = accessSocket(this.#place, principal);
    // Who asks has nothing more to say while they wait.
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      this.#serve(socket, principal);
    });
    server.maxConnections = MAX_CONNECTIONS;
    server.on('error', () => undefined);
    await listenPrivately(server, path);
    if (principal.kind === 'user') await chown(path, principal.id, 0);
    else {
      await chown(path, 0, principal.id);
      await chmod(path, 0o660);
    }
    return server;
  }

  #serve(socket: Socket, principal: Principal): void {
    this.#open.add(socket);
    socket.on('close', () => this.#open.delete(socket));
    socket.on('error', () => undefined);
    socket.setTimeout(REQUEST_TIMEOUT_MS, () => socket.destroy());
    let text = '';
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => {
      text += chunk;
      if (text.length > MAX_LINE_BYTES) socket.destroy();
      else if (text.includes('\n')) {
        socket.pause();
        socket.setTimeout(0);
        const line = text.slice(0, text.indexOf('\n'));
        const turn = this.#last.then(() => this.#answer(line, principal));
        this.#last = turn;
        void turn.then((answer) => socket.end(`${JSON.stringify(answer)}\n`));
      }
    });
  }

  /** Never rejects. */
  async #answer(line: string, principal: Principal): Promise<TapAnswer> {
    const who = `${principal.kind} ${String(principal.id)}`;
    const petition = parsePetition(line);
    if (petition === undefined) return { error: 'The request is malformed: tshyve and the keeper differ in version.' };
    const { action, mac, machineName } = petition;
    try {
      const tap = machineOf(this.#place, mac);
      if (ownScope.interfaceExists(tap.name) && !(await owns(principal, tap.name))) {
        return { error: `The interface ${tap.name} belongs to somebody else's machine.` };
      }
      if (action === 'attach') {
        await this.#requireRoom(principal, tap.name, machineName);
        await makeTap({ network: this.#network, mac, machineName }, principal);
      } else await removeTap(this.#network, mac);
      this.#log.info(`${action} ${tap.name} "${machineName}" for ${who}`);
      return { tap: tap.name };
    } catch (error) {
      this.#log.info(`${action} for ${who}: ${messageOf(error)}`);
      return { error: messageOf(error) };
    }
  }

  /** @throws TshyveError `precondition` when they have too many, or the name is another's */
  async #requireRoom(principal: Principal, tap: string, machineName: string): Promise<void> {
    let count = 0;
    for (const other of await readdir(this.#place.hosts)) {
      if (other === tap || !ownScope.interfaceExists(other)) continue;
      if (await owns(principal, other)) count++;
      else if (namesMachine(await readFile(`${this.#place.hosts}/${other}`, 'utf8').catch(() => ''), machineName)) {
        throw new TshyveError(
          'precondition',
          `Another user's machine on the network "${this.#network}" is called "${machineName}". Choose another name, or another network.`,
        );
      }
    }
    if (count < MAX_TAPS) return;
    throw new TshyveError(
      'precondition',
      `There are ${String(count)} machines of yours on the network "${this.#network}", which is the limit. Stop some, or use another network.`,
    );
  }
}

async function owns({ kind, id }: Principal, tap: string): Promise<boolean> {
  return (await tapOwner(tap))[kind] === id;
}

function namesMachine(hostsLine: string, machineName: string): boolean {
  return hostsLine.trim().split(',')[1]?.toLowerCase() === machineName.toLowerCase();
}
