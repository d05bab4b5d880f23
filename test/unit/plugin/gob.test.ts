import { describe, expect, test } from 'vitest';

import { GobDecoder, GobEncoder, type GobSchema, type GobValue } from '../../../driver/plugin/gob/index.js';
import { TshyveError } from '../../../driver/base/index.js';
import { plain, recorded } from './recorded.js';

const standalone = recorded.vectors.filter((vector) => vector.direction.startsWith('any'));

function decodeAll(bytes: Buffer, chunk = bytes.length): unknown[] {
  const decoder = new GobDecoder();
  const values: unknown[] = [];
  for (let start = 0; start < bytes.length; start += chunk) {
    decoder.push(bytes.subarray(start, start + chunk));
    for (let value = decoder.next(); value !== undefined; value = decoder.next()) {
      values.push({ type_id: value.typeId, value: plain(value.value) });
    }
  }
  return values;
}

describe('values recorded from Go', () => {
  test('there are as many as the fixture promises', () => {
    expect(standalone).toHaveLength(84);
    expect(recorded.sessions).toHaveLength(26);
  });

  test.each(standalone.map((vector) => [vector.name, vector] as const))('%s decodes', (_, vector) => {
    const bytes = Buffer.from(vector.hex, 'hex');
    // Numbers beyond 2^53 are compared as doubles, as JSON gave them to us.
    const wanted = Array.isArray(vector.decoded) ? vector.decoded : [vector.decoded];
    expect(decodeAll(bytes)).toEqual(wanted);
    expect(decodeAll(bytes, 1)).toEqual(wanted);
  });

  test.each(recorded.sessions.map((session) => [session.name, session] as const))(
    'session %s decodes',
    (_, session) => {
      for (const [direction, hex, preamble] of [
        ['client->server', session.c2s_hex, 27],
        ['server->client', session.s2c_hex, 34],
      ] as const) {
        const values = decodeAll(Buffer.from(hex, 'hex').subarray(preamble), 7);
        const wanted = session.messages.filter((message) => message.dir === direction);
        expect(values).toEqual(wanted.map((message) => ({ type_id: message.type_id, value: message.decoded })));
      }
    },
  );
});

describe('exact numbers', () => {
  const integers = [0n, 1n, -1n, 63n, 64n, -64n, -65n, 2n ** 53n + 1n, 2n ** 63n - 1n, -(2n ** 63n)];
  test.each(integers)('int %s survives', (value) => {
    expect(roundTrip('int', { kind: 'int', value })).toEqual({ kind: 'int', value });
  });
  test.each([0n, 127n, 128n, 255n, 256n, 2n ** 64n - 1n])('uint %s survives', (value) => {
    expect(roundTrip('uint', { kind: 'uint', value })).toEqual({ kind: 'uint', value });
  });
  test.each([0, -0, 1.5, -1e300, Number.MIN_VALUE, Infinity, NaN])('float %s survives', (value) => {
    expect(roundTrip('float', { kind: 'float', value })).toEqual({ kind: 'float', value });
  });
  test.each([2n ** 64n, -1n])('uint %s is refused', (value) => {
    expect(() => roundTrip('uint', { kind: 'uint', value })).toThrow('does not fit 64 bits');
  });
});

test('the encoder writes what Go writes for scalars', () => {
  for (const [name, schema, value] of [
    ['gob_int_-65', 'int', { kind: 'int', value: -65n }],
    ['gob_uint_256', 'uint', { kind: 'uint', value: 256n }],
    ['gob_int_-9223372036854775808', 'int', { kind: 'int', value: -(2n ** 63n) }],
    ['gob_bool_false', 'bool', { kind: 'bool', value: false }],
    ['gob_string_empty', 'string', { kind: 'string', value: Buffer.alloc(0) }],
    ['gob_string_utf8', 'string', { kind: 'string', value: Buffer.from('é☃') }],
    ['gob_bytes_00ff', 'bytes', { kind: 'bytes', value: Buffer.from([0, 255]) }],
  ] as const) {
    const vector = standalone.find((candidate) => candidate.name === name);
    expect(new GobEncoder().encode(schema, value).toString('hex')).toBe(vector?.hex);
  }
});

test('a failed encode leaves the stream usable', () => {
  const schema: GobSchema = { kind: 'slice', element: 'int' };
  const encoder = new GobEncoder();
  expect(() => encoder.encode(schema, { kind: 'slice', elements: [{ kind: 'bool', value: true }] })).toThrow(
    TshyveError,
  );
  const bytes = encoder.encode(schema, { kind: 'slice', elements: [{ kind: 'int', value: 5n }] });
  expect(decodeAll(bytes)).toEqual([{ type_id: 65, value: [5] }]);
});

describe('hostile streams end in clean errors', () => {
  test.each([
    ['a length beyond the limit', 'fc7fffffff', 'message of 2147483647 bytes'],
    ['a number of nine bytes', 'f7000000000000000000', '9 bytes'],
    ['an empty message', '00', 'empty message'],
    ['an undefined type', '0302c80100'.replace('02c801', 'ff8200'), 'undefined type'],
    ['a string longer than its message', '040c00ff'.concat('ff'), 'a string claims'],
    ['a reserved type number', '021300', 'reserved type'],
    ['bytes left over', '0504000100ff', 'left over'],
  ])('%s', (_, hex, message) => {
    expect(() => decodeAll(Buffer.from(hex, 'hex'))).toThrow(message);
  });

  test('a stream stays failed', () => {
    const decoder = new GobDecoder();
    decoder.push(Buffer.from('00', 'hex'));
    expect(() => decoder.next()).toThrow('empty message');
    decoder.push(Buffer.from('03040002', 'hex'));
    expect(() => decoder.next()).toThrow('failed before');
  });
});

function roundTrip(schema: GobSchema, value: GobValue): GobValue | undefined {
  const decoder = new GobDecoder();
  decoder.push(new GobEncoder().encode(schema, value));
  return decoder.next()?.value;
}
