import { gobError } from './reader.js';
import { type GobSchema, type GobValue, builtin, firstUserId } from './types.js';

/**
 * Encodes one direction of a gob stream. Definitions go out as messages of their own directly before the first value
 * that needs them; a decoder of Go's accepts this although Go itself weaves them in.
 */
export class GobEncoder {
  readonly #ids = new Map<GobSchema, number>();
  /** Schemas that look alike share one definition, e.g. two spellings of `[]string`. */
  readonly #idByShape = new Map<string, number>();
  // Go's first user type is 65; 64 is free in every peer.
  #nextId = firstUserId + 1;

  /**
   * The bytes of one value with all definitions it still needs.
   * @throws TshyveError `protocol` when the value does not fit the schema; the stream is unharmed then
   */
  encode(schema: GobSchema, value: GobValue): Buffer {
    const definitions: Buffer[] = [];
    const firstNew = this.#nextId;
    try {
      const id = this.#define(schema, definitions);
      const body = new Writer();
      body.int(BigInt(id));
      if (!isStruct(schema)) body.uint(0n);
      this.#value(body, schema, value, definitions);
      return Buffer.concat([...definitions, message(body)]);
    } catch (error) {
      this.#forgetFrom(firstNew);
      throw error;
    }
  }

  /** Definitions that were not sent must not count as known. */
  #forgetFrom(firstNew: number): void {
    for (const [schema, id] of this.#ids) if (id >= firstNew) this.#ids.delete(schema);
    for (const [shape, id] of this.#idByShape) if (id >= firstNew) this.#idByShape.delete(shape);
    this.#nextId = firstNew;
  }

  /** The id of a schema's type; defines it (and what it consists of) when this stream has not seen it. */
  #define(schema: GobSchema, definitions: Buffer[]): number {
    if (typeof schema === 'string') return builtin[schema];
    if (schema.kind === 'interface') return builtin.interface;
    const known = this.#ids.get(schema);
    if (known !== undefined) return known;
    const shape = JSON.stringify(schema, (key, part: unknown) => (key === 'types' ? undefined : part));
    const twin = this.#idByShape.get(shape);
    if (twin !== undefined) {
      this.#ids.set(schema, twin);
      return twin;
    }
    const parts = this.#parts(schema, definitions);
    const id = this.#nextId++;
    this.#ids.set(schema, id);
    this.#idByShape.set(shape, id);
    const writer = new Writer();
    writer.int(BigInt(-id));
    writeWireType(writer, schema, id, parts);
    definitions.push(message(writer));
    return id;
  }

  #parts(schema: Exclude<GobSchema, string>, definitions: Buffer[]): number[] {
    switch (schema.kind) {
      case 'array':
      case 'slice':
        return [this.#define(schema.element, definitions)];
      case 'map':
        return [this.#define(schema.key, definitions), this.#define(schema.element, definitions)];
      case 'struct':
        return schema.fields.map(([, field]) => this.#define(field, definitions));
      case 'interface':
        return [];
    }
  }

  #value(writer: Writer, schema: GobSchema, value: GobValue, definitions: Buffer[]): void {
    const kind = typeof schema === 'string' ? schema : schema.kind;
    if (value.kind !== (kind as string)) throw gobError(`cannot encode a ${value.kind} where a ${kind} belongs`);
    switch (value.kind) {
      case 'bool':
        writer.uint(value.value ? 1n : 0n);
        return;
      case 'int':
        writer.int(value.value);
        return;
      case 'uint':
        writer.uint(value.value);
        return;
      case 'float':
        writer.uint(floatBits(value.value));
        return;
      case 'complex':
        writer.uint(floatBits(value.real));
        writer.uint(floatBits(value.imaginary));
        return;
      case 'bytes':
      case 'string':
        writer.counted(value.value);
        return;
      case 'array':
      case 'slice': {
        const element = (schema as { element: GobSchema }).element;
        const length = (schema as { length?: number }).length ?? value.elements.length;
        if (length !== value.elements.length) throw gobError('cannot encode an array of another length');
        writer.uint(BigInt(length));
        for (const item of value.elements) this.#value(writer, element, item, definitions);
        return;
      }
      case 'map': {
        const { key, element } = schema as { key: GobSchema; element: GobSchema };
        writer.uint(BigInt(value.entries.length));
        for (const [name, item] of value.entries) {
          this.#value(writer, key, name, definitions);
          this.#value(writer, element, item, definitions);
        }
        return;
      }
      case 'struct':
        this.#struct(
          writer,
          (schema as { fields: readonly (readonly [string, GobSchema])[] }).fields,
          value.fields,
          definitions,
        );
        return;
      case 'interface':
        this.#interface(writer, (schema as { types: Readonly<Record<string, GobSchema>> }).types, value, definitions);
        return;
      case 'opaque':
        throw gobError('cannot encode a value that only Go can make');
    }
  }

  #struct(
    writer: Writer,
    fields: readonly (readonly [string, GobSchema])[],
    values: ReadonlyMap<string, GobValue>,
    definitions: Buffer[],
  ): void {
    let last = -1;
    for (const [index, [name, schema]] of fields.entries()) {
      const value = values.get(name);
      if (value === undefined || isZero(value)) continue;
      writer.uint(BigInt(index - last));
      last = index;
      this.#value(writer, schema, value, definitions);
    }
    writer.uint(0n);
  }

  #interface(
    writer: Writer,
    types: Readonly<Record<string, GobSchema>>,
    value: GobValue & { kind: 'interface' },
    definitions: Buffer[],
  ): void {
    if (value.value === undefined) {
      writer.uint(0n);
      return;
    }
    const schema = Object.hasOwn(types, value.type) ? types[value.type] : undefined;
    if (schema === undefined) throw gobError(`cannot encode the unregistered type ${value.type}`);
    const id = this.#define(schema, definitions);
    const body = new Writer();
    if (!isStruct(schema)) body.uint(0n);
    this.#value(body, schema, value.value, definitions);
    const bytes = body.bytes();
    writer.counted(Buffer.from(value.type));
    writer.int(BigInt(id));
    writer.counted(bytes);
  }
}

/** Go leaves a struct field out when it is zero; an empty map that is not nil would be sent, we have no nil maps. */
function isZero(value: GobValue): boolean {
  switch (value.kind) {
    case 'bool':
      return !value.value;
    case 'int':
    case 'uint':
      return value.value === 0n;
    case 'float':
      return value.value === 0 && !Object.is(value.value, -0);
    case 'complex':
      return value.real === 0 && value.imaginary === 0 && !Object.is(value.real, -0) && !Object.is(value.imaginary, -0);
    case 'bytes':
    case 'string':
    case 'opaque':
      return value.value.length === 0;
    case 'slice':
      return value.elements.length === 0;
    case 'interface':
      return value.value === undefined;
    case 'array':
    case 'map':
    case 'struct':
      return false;
  }
}

function isStruct(schema: GobSchema): boolean {
  return typeof schema !== 'string' && schema.kind === 'struct';
}

function writeWireType(writer: Writer, schema: Exclude<GobSchema, string>, id: number, parts: readonly number[]): void {
  const field = { array: 1, slice: 2, struct: 3, map: 4, interface: 0 }[schema.kind];
  writer.uint(BigInt(field));
  writer.uint(1n); // the CommonType
  const name = schema.kind === 'struct' ? schema.name : '';
  if (name !== '') {
    writer.uint(1n);
    writer.counted(Buffer.from(name));
  }
  writer.uint(name === '' ? 2n : 1n);
  writer.int(BigInt(id));
  writer.uint(0n);
  if (schema.kind === 'struct') {
    if (schema.fields.length > 0) {
      writer.uint(1n);
      writer.uint(BigInt(schema.fields.length));
      for (const [index, [fieldName]] of schema.fields.entries()) {
        writer.uint(1n);
        writer.counted(Buffer.from(fieldName));
        writer.uint(1n);
        writer.int(BigInt(parts[index] ?? 0));
        writer.uint(0n);
      }
    }
  } else {
    for (const part of parts) {
      writer.uint(1n);
      writer.int(BigInt(part));
    }
    if (schema.kind === 'array' && schema.length > 0) {
      writer.uint(1n);
      writer.int(BigInt(schema.length));
    }
  }
  writer.uint(0n);
  writer.uint(0n);
}

function message(body: Writer): Buffer {
  const length = new Writer();
  const bytes = body.bytes();
  length.uint(BigInt(bytes.length));
  return Buffer.concat([length.bytes(), bytes]);
}

function floatBits(value: number): bigint {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleBE(value);
  return bytes.readBigUInt64LE();
}

/** Collects the bytes of a message. */
class Writer {
  readonly #parts: Buffer[] = [];

  uint(value: bigint): void {
    if (value < 0n || value > 0xffff_ffff_ffff_ffffn) throw gobError(`${String(value)} does not fit 64 bits`);
    if (value < 0x80n) {
      this.#parts.push(Buffer.from([Number(value)]));
      return;
    }
    const bytes = Buffer.alloc(9);
    bytes.writeBigUInt64BE(value, 1);
    let start = 1;
    while (bytes[start] === 0) start++;
    bytes[start - 1] = 256 - (9 - start);
    this.#parts.push(bytes.subarray(start - 1));
  }

  int(value: bigint): void {
    if (value < -(1n << 63n) || value >= 1n << 63n) throw gobError(`${String(value)} does not fit 64 bits`);
    this.uint(value < 0n ? (~value << 1n) | 1n : value << 1n);
  }

  counted(bytes: Buffer): void {
    this.uint(BigInt(bytes.length));
    this.#parts.push(bytes);
  }

  bytes(): Buffer {
    return Buffer.concat(this.#parts);
  }
}
