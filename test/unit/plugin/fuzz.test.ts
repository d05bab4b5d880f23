import { describe, expect, test } from 'vitest';

import { TshyveError } from '../../../driver/base/index.js';
import { GobDecoder } from '../../../driver/plugin/gob/index.js';
import { RpcConnection } from '../../../driver/plugin/netrpc/index.js';
import { findMethod } from '../../../driver/plugin/service.js';
import { recorded } from './recorded.js';

const frames = Number(process.env['TSHYVE_FUZZ_FRAMES'] ?? 1_000_000);
const seed = Number(process.env['TSHYVE_FUZZ_SEED'] ?? 20_261_124);

/** mulberry32: small, seeded, good enough to pick bytes. */
function generator(state: number): (below: number) => number {
  let a = state >>> 0;
  return (below) => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/** Bytes that mean something in gob: small numbers, length prefixes, signs. */
const interesting = [0x00, 0x01, 0x02, 0x7f, 0x80, 0xf7, 0xf8, 0xfc, 0xfe, 0xff];

function mutate(original: Buffer, random: (below: number) => number): Buffer {
  const bytes = Buffer.from(original);
  const changes = 1 + random(4);
  for (let change = 0; change < changes; change++) {
    const at = random(bytes.length);
    switch (random(4)) {
      case 0:
        bytes[at] = random(256);
        break;
      case 1:
        bytes[at] = interesting[random(interesting.length)] ?? 0;
        break;
      case 2:
        bytes[at] = (bytes[at] ?? 0) ^ (1 << random(8));
        break;
      default: {
        // Move a piece of the frame over another.
        const length = Math.min(random(16) + 1, bytes.length - at);
        const from = random(bytes.length - length + 1);
        bytes.copyWithin(at, from, from + length);
      }
    }
  }
  return random(8) === 0 ? bytes.subarray(0, random(bytes.length) + 1) : bytes;
}

describe('mutated frames', () => {
  const values = recorded.vectors
    .filter((vector) => vector.direction.startsWith('any') || vector.context === undefined)
    .map((vector) => Buffer.from(vector.hex, 'hex'))
    .filter((bytes) => bytes.length < 700);
  const streams = recorded.sessions
    .map((session) => Buffer.from(session.c2s_hex, 'hex'))
    .filter((bytes) => bytes.length < 1400);

  test(`${String(frames)} frames yield values or clean errors`, { timeout: 600_000 }, () => {
    const random = generator(seed);
    let refused = 0;
    const started = process.memoryUsage().heapUsed;
    let slowest = 0;
    for (let index = 0; index < frames; index++) {
      // One in 50 is a whole client stream against the connection, which costs as much as many single values.
      const asStream = index % 50 === 0;
      const pool = asStream ? streams : values;
      const bytes = mutate(pool[random(pool.length)] ?? Buffer.from([0]), random);
      const begin = performance.now();
      try {
        if (asStream) {
          for (const call of new RpcConnection().receive(bytes).calls) findMethod(call.serviceMethod);
        } else {
          const decoder = new GobDecoder();
          decoder.push(bytes);
          while (decoder.next() !== undefined);
        }
      } catch (error) {
        refused++;
        if (!TshyveError.is(error, 'protocol')) {
          throw new Error(`frame ${String(index)} of seed ${String(seed)}: ${bytes.toString('hex')}`, { cause: error });
        }
      }
      slowest = Math.max(slowest, performance.now() - begin);
    }
    // A mutation that changes nothing would make this test pass without testing.
    expect(refused).toBeGreaterThan(frames / 10);
    expect(slowest).toBeLessThan(1000);
    expect(process.memoryUsage().heapUsed - started).toBeLessThan(256 << 20);
  });
});
