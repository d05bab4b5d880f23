import { rm } from 'node:fs/promises';
import { type Server, type Socket, connect, createServer } from 'node:net';

import { type Log, TshyveError, codeOf, listenPrivately, messageOf, within } from '../../../base/index.js';
import { peerAway } from '../../peer.js';
import type { SocketNetworkSpec } from '../../vm-spec.js';
import { announcement } from './announcement.js';
import { DhcpSnoop } from './dhcp-snoop.js';
import { type CutFrames, FrameCutter, type LengthPrefix, encodePrefix } from './frame-cutter.js';
import {
  checkVpnkitGreeting,
  greetingBytes,
  parseVpnkitReply,
  replyBytes,
  vpnkitEthernetCommand,
  vpnkitGreeting,
} from './vpnkit-handshake.js';

const HANDSHAKE_TIMEOUT_MS = 5_000;
const FIRST_RETRY_MS = 50;
const LAST_RETRY_MS = 2_000;

export interface FrameRelayOptions {
  readonly network: SocketNetworkSpec;
  /** What VPNKit knows the machine by. */
  readonly uuid: string;
  /** Where QEMU is to connect. */
  readonly socket: string;
  readonly log: Log;
  /** A DHCP server has given the guest this address. */
  readonly onAddress: (address: string) => void;
  /** The peer is away, in a sentence; empty: it is back. */
  readonly onProblem: (problem: string) => void;
}

/**
 * Stands between QEMU and the program that is the guest's network: QEMU 7.2 gives a network connection up for good when
 * its peer ends, and does not know VPNKit's framing. Frames are dropped while the peer is away.
 */
export class FrameRelay {
  /** The MAC the guest must have; undefined: any. */
  mac: string | undefined;
  readonly #options: FrameRelayOptions;
  readonly #prefix: LengthPrefix;
  readonly #fromQemu = new FrameCutter('big-endian 32');
  readonly #fromPeer: FrameCutter;
  #snoop: DhcpSnoop | undefined;
  #server: Server | undefined;
  #qemu: Socket | undefined;
  #peer: Socket | undefined;
  #retry: NodeJS.Timeout | undefined;
  #pause = FIRST_RETRY_MS;
  #closed = false;

  private constructor(options: FrameRelayOptions) {
    this.#options = options;
    this.#prefix = options.network.framing === 'vpnkit' ? 'little-endian 16' : 'big-endian 32';
    this.#fromPeer = new FrameCutter(this.#prefix);
  }

  /**
   * Connects to the peer and waits for QEMU.
   * @throws TshyveError `precondition` when nobody listens there, `protocol` when it does not speak VPNKit's protocol
   */
  static async start(options: FrameRelayOptions): Promise<FrameRelay> {
    const relay = new FrameRelay(options);
    try {
      await relay.#reach();
      await relay.#listen();
      return relay;
    } catch (error) {
      await relay.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#server?.close();
    this.#qemu?.destroy();
    this.#peer?.destroy();
    await rm(this.#options.socket, { force: true });
  }

  async #listen(): Promise<void> {
    await rm(this.#options.socket, { force: true });
    const server = createServer((socket) => {
      // There is one QEMU, and it connects once.
      server.close();
      this.#serveQemu(socket);
    });
    this.#server = server;
    await listenPrivately(server, this.#options.socket);
  }

  #serveQemu(socket: Socket): void {
    this.#qemu = socket;
    socket.on('error', () => undefined);
    socket.on('drain', () => this.#peer?.resume());
    socket.on('data', (chunk) => {
      const cut = this.#fromQemu.push(chunk);
      if (cut === undefined) socket.destroy();
      else this.#toPeer(cut);
    });
  }

  #toPeer(cut: CutFrames): void {
    for (const frame of cut.frames) this.#snoop?.fromGuest(frame);
    const peer = this.#peer;
    if (peer === undefined || cut.frames.length === 0) return;
    if (!send(peer, cut, this.#prefix, 'big-endian 32')) this.#qemu?.pause();
  }

  #toQemu(cut: CutFrames): void {
    for (const frame of cut.frames) this.#snoop?.toGuest(frame);
    const qemu = this.#qemu;
    if (qemu === undefined || cut.frames.length === 0) return;
    if (!send(qemu, cut, 'big-endian 32', this.#prefix)) this.#peer?.pause();
  }

  /** Connects to the peer; from then on a lost connection is made again. */
  async #reach(): Promise<void> {
    const { path, framing } = this.#options.network;
    const socket = connect(path);
    socket.on('error', () => undefined);
    try {
      await within(connected(socket), HANDSHAKE_TIMEOUT_MS, `the network peer at ${path} to answer`);
      if (framing === 'vpnkit') await this.#shakeHands(socket);
      if (socket.destroyed) throw closedEarly();
    } catch (error) {
      socket.destroy();
      throw unreachable(path, error);
    }
    if (this.#closed) socket.destroy();
    else this.#adopt(socket);
  }

  #adopt(socket: Socket): void {
    const { network, log, onAddress, onProblem } = this.#options;
    this.#snoop ??= new DhcpSnoop(this.mac ?? network.mac, onAddress);
    this.#fromPeer.reset();
    this.#peer = socket;
    this.#pause = FIRST_RETRY_MS;
    socket.on('drain', () => this.#qemu?.resume());
    socket.on('data', (chunk) => {
      const cut = this.#fromPeer.push(chunk);
      if (cut !== undefined) this.#toQemu(cut);
      else {
        log.info(`The network peer at ${network.path} sends something that is no frame; connecting again.`);
        socket.destroy();
      }
    });
    socket.on('end', () => socket.destroy());
    socket.once('close', () => {
      this.#peer = undefined;
      // What waited for the old connection is for nobody now.
      this.#qemu?.resume();
      if (this.#closed) return;
      log.info(`The network peer at ${network.path} went away; connecting again until it is back.`);
      onProblem(peerAway(network));
      this.#retryLater();
    });
    socket.resume();
  }

  #retryLater(): void {
    if (this.#closed) return;
    // Nobody tells us when a socket is listened at.
    this.#retry = setTimeout(() => {
      void this.#reach().then(
        () => {
          const { network, log, onProblem } = this.#options;
          log.info(`The network peer at ${network.path} is back.`);
          onProblem('');
          // It does not know yet who is here, and may have something for the guest first.
          this.#toPeer(withPrefix(announcement(this.mac ?? network.mac)));
        },
        () => {
          this.#retryLater();
        },
      );
    }, this.#pause);
    this.#pause = Math.min(this.#pause * 2, LAST_RETRY_MS);
  }

  async #shakeHands(socket: Socket): Promise<void> {
    const { network, uuid } = this.#options;
    const reply = (async () => {
      socket.write(vpnkitGreeting());
      checkVpnkitGreeting(await take(socket, greetingBytes));
      socket.write(vpnkitEthernetCommand(uuid));
      return parseVpnkitReply(await take(socket, replyBytes));
    })();
    const { mac } = await within(reply, HANDSHAKE_TIMEOUT_MS, `VPNKit's handshake at ${network.path}`);
    if (this.mac !== undefined && this.mac !== mac) {
      this.#options.log.info(
        `VPNKit wants the MAC ${mac} now, but the guest has ${this.mac}: restart the machine if its network is dead.`,
      );
    }
    this.mac ??= mac;
  }
}

/** One frame as QEMU would have sent it. */
function withPrefix(frame: Buffer): CutFrames {
  return { frames: [frame], raw: Buffer.concat([encodePrefix('big-endian 32', frame.length), frame]) };
}

/** @returns false when the socket is full: wait for `drain` */
function send(socket: Socket, { frames, raw }: CutFrames, wanted: LengthPrefix, came: LengthPrefix): boolean {
  if (wanted === came) return socket.write(raw);
  socket.cork();
  let open = true;
  for (const frame of frames) {
    if (wanted === 'little-endian 16' && frame.length > 0xffff) continue;
    socket.write(encodePrefix(wanted, frame.length));
    open = socket.write(frame);
  }
  socket.uncork();
  return open;
}

function connected(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  });
}

/** Reads exactly so many bytes and leaves the rest in the socket, paused. */
function take(socket: Socket, count: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const attempt = () => {
      const bytes = socket.read(count) as Buffer | null;
      if (bytes === null) return;
      settle();
      if (bytes.length === count) resolve(bytes);
      else reject(closedEarly());
    };
    const onEnd = () => {
      settle();
      reject(closedEarly());
    };
    const settle = () => {
      socket.off('readable', attempt);
      socket.off('end', onEnd);
      socket.off('close', onEnd);
    };
    socket.on('readable', attempt);
    socket.on('end', onEnd);
    socket.on('close', onEnd);
    attempt();
  });
}

function closedEarly(): TshyveError {
  return new TshyveError('protocol', 'The peer closed the connection at once.');
}

function unreachable(path: string, error: unknown): TshyveError {
  const known = TshyveError.is(error);
  const missing = codeOf(error) === 'ENOENT' || codeOf(error) === 'ECONNREFUSED';
  const why = missing ? 'nobody listens there' : messageOf(error).replace(/\.$/, '');
  const kind = known && error.kind !== 'timeout' ? error.kind : 'precondition';
  return new TshyveError(
    kind,
    `The network peer at ${path} cannot be used: ${why}. Start the program that serves this socket, or correct --tshyve-network.`,
    { cause: error },
  );
}
