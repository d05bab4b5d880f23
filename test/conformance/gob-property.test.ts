import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, describe, expect, test } from 'vitest';

import { GobDecoder, GobEncoder, type GobSchema, type GobValue } from '../../driver/plugin/gob/index.js';

const peer = join(import.meta.dirname, 'bin/gobpeer');
const present = existsSync(peer);
if (!present) console.warn('gob property test needs test/conformance/bin/gobpeer: run test/conformance/build.sh');
const COUNT = 10_000;
const folder = mkdtempSync(join(tmpdir(), 'tshyve-gob-'));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

/** gobpeer's description of a value; see test/conformance/gobpeer/README.md. */
function canonical(value: GobValue): unknown {
  switch (value.kind) {
    case 'bool':
      return { bool: value.value };
    case 'int':
    case 'uint':
      return { [value.kind]: String(value.value) };
    case 'float':
      return { float: bits(value.value) };
    case 'complex':
      return { complex: [bits(value.real), bits(value.imaginary)] };
    case 'string':
    case 'bytes':
      return { [value.kind]: value.value.toString('base64') };
    case 'opaque':
      throw new Error('gobpeer sends no opaque values');
    case 'array':
    case 'slice':
      return { [value.kind]: value.elements.map(canonical) };
    case 'map': {
      const entries = value.entries.map(([key, item]) => [canonical(key), canonical(item)] as const);
      const text = (entry: readonly [unknown, unknown]) => JSON.stringify(entry[0]);
      return { map: entries.sort((a, b) => (text(a) < text(b) ? -1 : 1)) };
    }
    case 'struct':
      return {
        struct: Object.fromEntries(
          [...value.fields].filter(([, item]) => !isZero(item)).map(([key, item]) => [key, canonical(item)]),
        ),
      };
    case 'interface':
      return { interface: value.value === undefined ? null : { name: value.type, value: canonical(value.value) } };
  }
}

function isZero(value: GobValue): boolean {
  switch (value.kind) {
    case 'bool':
      return !value.value;
    case 'int':
    case 'uint':
      return value.value === 0n;
    case 'float':
      return value.value === 0;
    case 'complex':
      return value.real === 0 && value.imaginary === 0;
    case 'string':
    case 'bytes':
    case 'opaque':
      return value.value.length === 0;
    case 'slice':
      return value.elements.length === 0;
    case 'array':
      return value.elements.every(isZero);
    case 'map':
      return value.entries.length === 0;
    case 'struct':
      return [...value.fields.values()].every(isZero);
    case 'interface':
      return value.value === undefined;
  }
}

function bits(value: number): string {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleBE(value);
  return bytes.toString('hex');
}

describe.skipIf(!present && process.env['CI'] !== 'true')('gob with a Go peer', () => {
  test(`${String(COUNT)} random values of Go's decode to what Go meant`, { timeout: 120_000 }, () => {
    const path = join(folder, 'go.gob');
    const args = ['-seed', '7', '-count', String(COUNT), '-gob', path, 'generate'];
    const wanted = execFileSync(peer, args, { encoding: 'utf8', maxBuffer: 1 << 28 })
      .trimEnd()
      .split('\n');
    const decoder = new GobDecoder();
    const bytes = readFileSync(path);
    let index = 0;
    for (let start = 0; start < bytes.length; start += 1009) {
      decoder.push(bytes.subarray(start, start + 1009));
      for (let value = decoder.next(); value !== undefined; value = decoder.next()) {
        const line = JSON.parse(wanted[index] ?? '') as { kind: string; value: unknown };
        expect(canonical(value.value), `value ${String(index)}, ${line.kind}`).toEqual(line.value);
        index++;
      }
    }
    expect(index).toBe(COUNT);
  });

  test(`${String(COUNT)} random values of ours are read by Go`, { timeout: 120_000 }, () => {
    const random = new Random(11);
    const encoder = new GobEncoder();
    const chunks: Buffer[] = [];
    const plan: string[] = [];
    const wanted: unknown[] = [];
    for (let index = 0; index < COUNT; index++) {
      const kind = random.pick(Object.keys(makers));
      const { schema, make } = makers[kind] ?? { schema: 'int', make: () => random.int() };
      const value = make(random);
      chunks.push(encoder.encode(schema, value));
      plan.push(kind);
      wanted.push({ kind, value: canonical(value) });
    }
    const path = join(folder, 'ours.gob');
    writeFileSync(path, Buffer.concat(chunks));
    const out = execFileSync(peer, ['-gob', path, 'verify'], {
      input: plan.join('\n'),
      encoding: 'utf8',
      maxBuffer: 1 << 28,
    });
    const got = out
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as unknown);
    expect(got).toHaveLength(COUNT);
    for (const [index, value] of wanted.entries()) expect(got[index], `value ${String(index)}`).toEqual(value);
  });
});

/** Random values, seeded (mulberry32). */
class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed;
  }
  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % limit;
  }
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T;
  }
  many<T>(limit: number, make: () => T): T[] {
    return Array.from({ length: this.below(limit) }, make);
  }
  integer(bitCount = 64): bigint {
    const value = (BigInt(this.below(2 ** 32)) << 32n) | BigInt(this.below(2 ** 32));
    return BigInt.asIntN(
      bitCount,
      this.below(3) === 0
        ? this.pick([0n, 1n, -1n, 63n, 64n, -64n, -65n, 2n ** 63n - 1n])
        : value >> BigInt(this.below(64)),
    );
  }
  int(bitCount?: number): GobValue {
    return { kind: 'int', value: this.integer(bitCount) };
  }
  uint(bitCount = 64): GobValue {
    return { kind: 'uint', value: BigInt.asUintN(bitCount, this.integer()) };
  }
  number(): number {
    return this.pick([0, -0, 1.5, -1e300, Infinity, 5e-324, this.below(1e9) / 7]);
  }
  string(): GobValue {
    return {
      kind: 'string',
      value: Buffer.from(Array.from({ length: this.below(1 + this.below(40)) }, () => this.below(256))),
    };
  }
  strings(): GobValue {
    return { kind: 'slice', elements: this.many(5, () => this.string()) };
  }
  anything(): GobValue {
    const types = ['', 'string', 'int', 'bool', '[]string'] as const;
    const type = this.pick(types);
    const values = {
      '': () => undefined,
      string: () => this.string(),
      int: () => this.int(),
      bool: (): GobValue => ({ kind: 'bool', value: this.below(2) === 0 }),
      '[]string': () => this.strings(),
    };
    return { kind: 'interface', type, value: values[type]() };
  }
  /** A map whose keys differ. */
  map(limit: number, key: () => GobValue, element: () => GobValue): GobValue {
    const entries = new Map(
      this.many(limit, () => key()).map((item) => [JSON.stringify(canonical(item)), [item, element()] as const]),
    );
    return { kind: 'map', entries: [...entries.values()] };
  }
}

const struct = (fields: Record<string, GobValue>): GobValue => ({
  kind: 'struct',
  fields: new Map(Object.entries(fields)),
});
const strings: GobSchema = { kind: 'slice', element: 'string' };
const anything: GobSchema = {
  kind: 'interface',
  types: { string: 'string', int: 'int', bool: 'bool', '[]string': strings },
};
const innerSchema: GobSchema = {
  kind: 'struct',
  name: 'Inner',
  fields: [
    ['Name', 'string'],
    ['Count', 'int'],
    ['Tags', strings],
  ],
};
const inner = (random: Random) => struct({ Name: random.string(), Count: random.int(), Tags: random.strings() });
const flagSchema = (name: string, value?: GobSchema): GobSchema => ({
  kind: 'struct',
  name,
  fields: [
    ['Name', 'string'],
    ['Usage', 'string'],
    ['EnvVar', 'string'],
    ...(value === undefined ? [] : [['Value', value] as const]),
  ],
});
const flagTypes = {
  '*mcnflag.StringFlag': flagSchema('StringFlag', 'string'),
  '*mcnflag.IntFlag': flagSchema('IntFlag', 'int'),
  '*mcnflag.BoolFlag': flagSchema('BoolFlag'),
  '*mcnflag.StringSliceFlag': flagSchema('StringSliceFlag', strings),
};
const valuesSchema: GobSchema = {
  kind: 'struct',
  name: 'RPCFlags',
  fields: [['Values', { kind: 'map', key: 'string', element: anything }]],
};

/** The kinds of gobpeer, with what our encoder needs to know of each. */
const makers: Record<string, { schema: GobSchema; make: (random: Random) => GobValue }> = {
  empty: { schema: { kind: 'struct', name: '', fields: [] }, make: () => struct({}) },
  int: { schema: 'int', make: (random) => random.int() },
  uint: { schema: 'uint', make: (random) => random.uint() },
  bool: { schema: 'bool', make: (random) => ({ kind: 'bool', value: random.below(2) === 0 }) },
  string: { schema: 'string', make: (random) => random.string() },
  float: { schema: 'float', make: (random) => ({ kind: 'float', value: random.number() }) },
  complex: {
    schema: 'complex',
    make: (random) => ({ kind: 'complex', real: random.number(), imaginary: random.number() }),
  },
  bytes: { schema: 'bytes', make: (random) => ({ ...random.string(), kind: 'bytes' }) as GobValue },
  strings: { schema: strings, make: (random) => random.strings() },
  request: {
    schema: {
      kind: 'struct',
      name: 'Request',
      fields: [
        ['ServiceMethod', 'string'],
        ['Seq', 'uint'],
      ],
    },
    make: (random) => struct({ ServiceMethod: random.string(), Seq: random.uint() }),
  },
  response: {
    schema: {
      kind: 'struct',
      name: 'Response',
      fields: [
        ['ServiceMethod', 'string'],
        ['Seq', 'uint'],
        ['Error', 'string'],
      ],
    },
    make: (random) => struct({ ServiceMethod: random.string(), Seq: random.uint(), Error: random.string() }),
  },
  flags: {
    schema: { kind: 'slice', element: { kind: 'interface', types: flagTypes } },
    make: (random) => ({
      kind: 'slice',
      elements: random.many(5, () => {
        const type = random.pick(Object.keys(flagTypes) as (keyof typeof flagTypes)[]);
        const value = {
          '*mcnflag.StringFlag': random.string(),
          '*mcnflag.IntFlag': random.int(),
          '*mcnflag.StringSliceFlag': random.strings(),
          '*mcnflag.BoolFlag': undefined,
        }[type];
        const fields = {
          Name: random.string(),
          Usage: random.string(),
          EnvVar: random.string(),
          ...(value === undefined ? {} : { Value: value }),
        };
        return { kind: 'interface', type, value: struct(fields) };
      }),
    }),
  },
  values: {
    schema: { kind: 'interface', types: { '*rpcdriver.RPCFlags': valuesSchema } },
    make: (random) => ({
      kind: 'interface',
      type: '*rpcdriver.RPCFlags',
      value: struct({
        Values: random.map(
          6,
          () => random.string(),
          () => random.anything(),
        ),
      }),
    }),
  },
  nested: {
    schema: {
      kind: 'struct',
      name: 'Nested',
      fields: [
        ['Small', 'int'],
        ['Medium', 'uint'],
        ['Inners', { kind: 'slice', element: innerSchema }],
        ['ByName', { kind: 'map', key: 'string', element: innerSchema }],
        ['Three', { kind: 'array', element: 'int', length: 3 }],
        ['ByNumber', { kind: 'map', key: 'int', element: 'string' }],
        ['Single', 'float'],
        ['Pointer', innerSchema],
        ['Anything', anything],
        ['Table', { kind: 'slice', element: strings }],
        ['Flag', 'bool'],
        ['Raw', 'bytes'],
        ['Z', 'complex'],
      ],
    },
    make: (random) =>
      struct({
        Small: random.int(8),
        Medium: random.uint(16),
        Inners: { kind: 'slice', elements: random.many(3, () => inner(random)) },
        ByName: random.map(
          3,
          () => random.string(),
          () => inner(random),
        ),
        Three: { kind: 'array', elements: [random.int(), random.int(), random.int()] },
        ByNumber: random.map(
          3,
          () => random.int(),
          () => random.string(),
        ),
        Single: { kind: 'float', value: Math.fround(random.below(1000) / 7) },
        ...(random.below(2) === 0 ? {} : { Pointer: inner(random) }),
        Anything: random.anything(),
        Table: { kind: 'slice', elements: random.many(3, () => random.strings()) },
        Flag: { kind: 'bool', value: random.below(2) === 0 },
        Raw: { ...random.string(), kind: 'bytes' } as GobValue,
        Z: { kind: 'complex', real: random.number(), imaginary: random.number() },
      }),
  },
};
