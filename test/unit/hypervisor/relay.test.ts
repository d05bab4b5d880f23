import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { type Socket, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, describe, expect, test } from 'vitest';

import type { SocketFraming } from '../../../driver/hypervisor/index.js';
import { DhcpSnoop } from '../../../driver/hypervisor/qemu/relay/dhcp-snoop.js';
import { FrameCutter, encodePrefix } from '../../../driver/hypervisor/qemu/relay/frame-cutter.js';
import { FrameRelay } from '../../../driver/hypervisor/qemu/relay/index.js';
import { VpnkitPeer } from '../../vpnkit-peer.js';

const MAC = '02:00:00:00:00:07';
const UUID = '00000000-0000-8000-8000-000000000007';
const withLength = (frame: Buffer) => Buffer.concat([encodePrefix('big-endian 32', frame.length), frame]);

/** An Ethernet frame with a DHCP message. */
function dhcp(fields: { type: number; transaction: number; address?: string; mac?: string; fromServer?: boolean }) {
  const frame = Buffer.alloc(14 + 20 + 8 + 244);
  frame.writeUInt16BE(0x0800, 12);
  frame[14] = 0x45;
  frame[23] = 17;
  frame.writeUInt16BE(fields.fromServer === true ? 67 : 68, 34);
  frame.writeUInt16BE(fields.fromServer === true ? 68 : 67, 36);
  const message = frame.subarray(42);
  message[1] = 1;
  message[2] = 6;
  message.writeUInt32BE(fields.transaction, 4);
  Buffer.from((fields.address ?? '0.0.0.0').split('.').map(Number)).copy(message, 16);
  Buffer.from((fields.mac ?? MAC).replaceAll(':', ''), 'hex').copy(message, 28);
  message.writeUInt32BE(0x63825363, 236);
  Buffer.from([53, 1, fields.type, 255]).copy(message, 240);
  return frame;
}
const request = (transaction: number) => dhcp({ type: 3, transaction });
const acknowledge = (transaction: number, address: string, mac = MAC) =>
  dhcp({ type: 5, transaction, address, mac, fromServer: true });

describe('frames are cut out of a stream', () => {
  const frames = [1, 60, 1514, 0, 65_549].map((length) => Buffer.alloc(length, length % 251));
  test.each([1, 3, 7, 1000, 1 << 20])('that comes in chunks of %i bytes', (size) => {
    const stream = Buffer.concat(frames.map(withLength));
    const cutter = new FrameCutter('big-endian 32');
    const found: Buffer[] = [];
    const raw: Buffer[] = [];
    for (let at = 0; at < stream.length; at += size) {
      const cut = cutter.push(stream.subarray(at, at + size));
      found.push(...(cut?.frames ?? []).map((frame) => Buffer.from(frame)));
      raw.push(Buffer.from(cut?.raw ?? ''));
    }
    expect(found.map((frame) => frame.length)).toEqual(frames.map((frame) => frame.length));
    expect(Buffer.concat(found).equals(Buffer.concat(frames))).toBe(true);
    expect(Buffer.concat(raw).equals(stream)).toBe(true);
  });

  test('an impossible length ends it', () => {
    expect(new FrameCutter('big-endian 32').push(Buffer.from([0x7f, 0, 0, 0, 1]))).toBeUndefined();
  });

  test('a new connection starts with a new frame', () => {
    const cutter = new FrameCutter('little-endian 16');
    cutter.push(Buffer.from([4, 0, 1]));
    cutter.reset();
    expect(cutter.push(Buffer.from([1, 0, 9]))?.frames).toEqual([Buffer.from([9])]);
  });
});

describe('the address is what a DHCP server acknowledges', () => {
  const watch = (...frames: [direction: 'out' | 'in', frame: Buffer][]) => {
    const addresses: string[] = [];
    const snoop = new DhcpSnoop(MAC, (address) => addresses.push(address));
    for (const [direction, frame] of frames) {
      if (direction === 'out') snoop.fromGuest(frame);
      else snoop.toGuest(frame);
    }
    return addresses;
  };

  test('in answer to a request of the guest, once', () => {
    const answer = acknowledge(5, '192.0.2.9');
    expect(watch(['out', request(5)], ['in', answer], ['in', answer])).toEqual(['192.0.2.9']);
    expect(
      watch(['out', request(5)], ['in', answer], ['out', request(6)], ['in', acknowledge(6, '192.0.2.10')]),
    ).toEqual(['192.0.2.9', '192.0.2.10']);
  });

  test.each<[string, Buffer]>([
    ['another transaction', acknowledge(6, '192.0.2.9')],
    ['another machine', acknowledge(5, '192.0.2.9', '02:00:00:00:00:08')],
    ['an offer', dhcp({ type: 2, transaction: 5, address: '192.0.2.9', fromServer: true })],
    ['no address', acknowledge(5, '0.0.0.0')],
    ['a loopback address', acknowledge(5, '127.0.0.1')],
    ['a broadcast', acknowledge(5, '255.255.255.255')],
    ['a message cut off', acknowledge(5, '192.0.2.9').subarray(0, 200)],
    ['a frame of another protocol', Buffer.alloc(300, 8)],
  ])('not %s', (_, frame) => {
    expect(watch(['out', request(5)], ['in', frame])).toEqual([]);
  });

  test('whatever bytes a frame has, nothing breaks', () => {
    let seed = 1;
    const random = () => (seed = (seed * 1_103_515_245 + 12_345) & 0x7fffffff) >> 8;
    const snoop = new DhcpSnoop(MAC, (address) => expect(address).toMatch(/^\d+\.\d+\.\d+\.\d+$/));
    for (let round = 0; round < 20_000; round++) {
      const frame = acknowledge(5, '192.0.2.9').subarray(0, random() % 300);
      for (let flips = random() % 4; flips > 0 && frame.length > 0; flips--)
        frame[random() % frame.length] = random() & 0xff;
      snoop.fromGuest(frame);
      snoop.toGuest(frame);
    }
  });
});

describe('a relay', () => {
  const cleanups: (() => unknown)[] = [];
  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  });

  async function start(framing: SocketFraming, path: string, folder: string) {
    const addresses: string[] = [];
    const lines: string[] = [];
    const network = { mode: 'socket', framing, path, mac: MAC, hostname: 'r', services: [] } as const;
    const log = { info: (line: string) => lines.push(line), debug: () => undefined };
    const onAddress = (address: string) => addresses.push(address);
    const problems: string[] = [];
    const onProblem = (problem: string) => problems.push(problem);
    const socket = join(folder, 'net.sock');
    const relay = await FrameRelay.start({ network, uuid: UUID, socket, log, onAddress, onProblem });
    cleanups.push(() => relay.close());
    const qemu = connect(join(folder, 'net.sock'));
    cleanups.push(() => qemu.destroy());
    await once(qemu, 'connect');
    return { relay, qemu, addresses, problems, lines, received: framesOf(qemu) };
  }

  function framesOf(socket: Socket): Buffer[] {
    const frames: Buffer[] = [];
    const cutter = new FrameCutter('big-endian 32');
    socket.on('data', (chunk) => frames.push(...(cutter.push(chunk)?.frames ?? [])));
    return frames;
  }

  function makeFolder(): string {
    const folder = mkdtempSync(join(tmpdir(), 'tsr-'));
    cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
    return folder;
  }

  test('translates for VPNKit, takes the MAC it gives, and finds it again after a restart', async () => {
    const folder = makeFolder();
    const path = join(folder, 'vpnkit');
    const frames: Buffer[] = [];
    const mac = 'c0:ff:ee:00:00:01';
    const peer = () => new VpnkitPeer(mac, (frame) => frames.push(frame));
    const first = peer();
    await first.listen(path);
    const { relay, qemu, addresses, problems, received } = await start('vpnkit', path, folder);
    expect(first.clients).toEqual([UUID]);
    expect(relay.mac).toBe(mac);
    qemu.write(withLength(dhcp({ type: 3, transaction: 1, mac })));
    await expect.poll(() => frames.length).toBe(1);
    first.send(acknowledge(1, '192.0.2.5', mac));
    await expect.poll(() => received.length).toBe(1);
    expect(addresses).toEqual(['192.0.2.5']);

    await first.close();
    // Lost: there is nobody.
    qemu.write(withLength(Buffer.alloc(60, 1)));
    const second = peer();
    await second.listen(path);
    cleanups.push(() => second.close());
    // The guest is announced before it says anything.
    await expect.poll(() => frames.length).toBe(2);
    expect(frames[1]?.toString('hex')).toMatch(/^ffffffffffffc0ffee0000018035/);
    qemu.write(withLength(Buffer.alloc(1514, 2)));
    await expect.poll(() => frames[2]?.length).toBe(1514);
    expect(problems).toEqual([expect.stringMatching(/vpnkit is away: start it again/), '']);
  });

  test('passes a stream on whole, however slow the peer is', async () => {
    const folder = makeFolder();
    const path = join(folder, 'stream');
    const peers: Socket[] = [];
    const server = createServer((socket) => {
      socket.pause();
      peers.push(socket);
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    cleanups.push(() => {
      peers.forEach((socket) => socket.destroy());
      server.close();
    });
    const { qemu } = await start('stream', path, folder);
    await expect.poll(() => peers.length).toBe(1);
    const count = 4000;
    for (let index = 0; index < count; index++) qemu.write(withLength(Buffer.alloc(1514, index & 0xff)));
    // Some of it waits on our side by now: the relay has stopped reading.
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(qemu.writableLength).toBeGreaterThan(0);
    const [peer] = peers;
    const received = peer === undefined ? [] : framesOf(peer);
    peer?.resume();
    await expect.poll(() => received.length).toBe(count);
    expect(received.every((frame, index) => frame.length === 1514 && frame[0] === (index & 0xff))).toBe(true);
  });

  test('names a peer that is not there, or is something else', async () => {
    const folder = makeFolder();
    await expect(start('stream', join(folder, 'none'), folder)).rejects.toMatchObject({
      kind: 'precondition',
      message: expect.stringMatching(/nobody listens there. Start the program that serves this socket/) as string,
    });
    const server = createServer((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n'.padEnd(60)));
    await new Promise<void>((resolve) => server.listen(join(folder, 'http'), resolve));
    cleanups.push(() => server.close());
    await expect(start('vpnkit', join(folder, 'http'), folder)).rejects.toMatchObject({
      kind: 'protocol',
      message: expect.stringContaining("does not speak VPNKit's protocol") as string,
    });
  });
});
