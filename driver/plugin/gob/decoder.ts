import { type GobLimits, defaultLimits } from './limits.js';
import { MessageReader, NeedMoreMessages, gobError, readUint } from './reader.js';
import { type GobValue, type WireField, type WireType, builtin, firstUserId } from './types.js';

/** One complete top-level value of a stream. */
export interface DecodedValue {
  /** Type number on this stream; below 64 a builtin type. */
  readonly typeId: number;
  readonly value: GobValue;
}

/**
 * Decodes one direction of a gob stream from chunks of any size. After an error the stream is lost, as in Go.
 * All sizes a peer can claim are checked against what it sent and against the limits.
 */
export class GobDecoder {
  readonly #limits: GobLimits;
  readonly #types = new Map<number, WireType>();
  /** Received bytes not yet cut into messages, as a list so that byte-wise arrival stays linear. */
  #chunks: Buffer[] = [];
  #buffered = 0;
  /** Bytes that must be there before another look is worth it. */
  #wanted = 1;
  /** Complete messages of the value under way. */
  #messages: Buffer[] = [];
  #messageBytes = 0;
  /** Bytes looked at for the value under way: each further message starts it anew, which must not become quadratic. */
  #work = 0;
  #failed = false;

  constructor(limits: Partial<GobLimits> = {}) {
    this.#limits = { ...defaultLimits, ...limits };
  }

  /** Hands over received bytes; they are not copied until a message is complete. */
  push(chunk: Buffer): void {
    if (chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.#buffered += chunk.length;
  }

  /**
   * The next value, or undefined until more bytes arrive.
   * @throws TshyveError `protocol`; every later call throws as well
   */
  next(): DecodedValue | undefined {
    if (this.#failed) throw gobError('the stream has failed before');
    try {
      while (this.#takeMessage()) {
        const decoded = this.#tryValue();
        if (decoded !== undefined) return decoded;
      }
      return undefined;
    } catch (error) {
      this.#failed = true;
      this.#chunks = [];
      this.#messages = [];
      throw error;
    }
  }

  /** Moves one complete message from the buffer to the list. */
  #takeMessage(): boolean {
    if (this.#buffered < this.#wanted) return false;
    const bytes = this.#chunks.length === 1 ? (this.#chunks[0] ?? Buffer.alloc(0)) : Buffer.concat(this.#chunks);
    this.#chunks = [bytes];
    const length = readUint(bytes, 0);
    if (length === undefined) {
      this.#wanted = this.#buffered + 1;
      return false;
    }
    if (length.value > BigInt(this.#limits.messageBytes)) {
      throw gobError(`a message of ${String(length.value)} bytes (${String(this.#limits.messageBytes)} are allowed)`);
    }
    if (length.value === 0n) throw gobError('an empty message');
    const end = length.next + Number(length.value);
    if (bytes.length < end) {
      this.#wanted = end;
      return false;
    }
    this.#messageBytes += end - length.next;
    if (this.#messageBytes > this.#limits.valueBytes) {
      throw gobError(`a value of more than ${String(this.#limits.valueBytes)} bytes`);
    }
    this.#messages.push(bytes.subarray(length.next, end));
    const rest = bytes.subarray(end);
    this.#chunks = rest.length === 0 ? [] : [rest];
    this.#buffered = rest.length;
    this.#wanted = 1;
    return true;
  }

  /** Decodes the messages at hand; on a value that goes on in a later message all definitions made are taken back. */
  #tryValue(): DecodedValue | undefined {
    this.#work += this.#messageBytes;
    if (this.#work > 4 * this.#limits.valueBytes) throw gobError('a value in too many messages');
    const reader = new MessageReader(this.#messages);
    const known = new Set(this.#types.keys());
    try {
      const value = new ValueDecoder(reader, this.#types, this.#limits).topLevel();
      if (reader.remaining > 0) throw gobError(`${String(reader.remaining)} bytes left over after a value`);
      this.#messages = [];
      this.#messageBytes = 0;
      this.#work = 0;
      return value;
    } catch (error) {
      if (!(error instanceof NeedMoreMessages)) throw error;
      for (const id of this.#types.keys()) if (!known.has(id)) this.#types.delete(id);
      return undefined;
    }
  }
}

/** Decodes one value; lives as long as the attempt. */
class ValueDecoder {
  readonly #reader: MessageReader;
  readonly #types: Map<number, WireType>;
  readonly #limits: GobLimits;
  #nodes = 0;

  constructor(reader: MessageReader, types: Map<number, WireType>, limits: GobLimits) {
    this.#reader = reader;
    this.#types = types;
    this.#limits = limits;
  }

  /** Definitions, each a message of its own, then the value. */
  topLevel(): DecodedValue {
    for (;;) {
      const id = this.#reader.typeId();
      if (id >= 0) return { typeId: id, value: this.#wrapped(id, 0) };
      this.#define(-id);
      this.#reader.beginMessage();
    }
  }

  /** A value in top-level form: everything but a struct has a zero "field delta" before it. */
  #wrapped(id: number, depth: number): GobValue {
    if (this.#types.get(id)?.kind !== 'struct' && this.#reader.uint() !== 0n) {
      throw gobError('a non-struct value without its leading zero');
    }
    return this.#value(id, depth);
  }

  #value(id: number, depth: number): GobValue {
    if (depth > this.#limits.depth) throw gobError(`values nested deeper than ${String(this.#limits.depth)}`);
    if (++this.#nodes > this.#limits.nodes) {
      throw gobError(`a value of more than ${String(this.#limits.nodes)} parts`);
    }
    const reader = this.#reader;
    switch (id) {
      case builtin.bool: {
        const value = reader.uint();
        if (value > 1n) throw gobError(`a bool of value ${String(value)}`);
        return { kind: 'bool', value: value === 1n };
      }
      case builtin.int:
        return { kind: 'int', value: reader.int() };
      case builtin.uint:
        return { kind: 'uint', value: reader.uint() };
      case builtin.float:
        return { kind: 'float', value: floatFrom(reader.uint()) };
      case builtin.complex:
        return { kind: 'complex', real: floatFrom(reader.uint()), imaginary: floatFrom(reader.uint()) };
      case builtin.bytes:
        return { kind: 'bytes', value: reader.bytes(reader.count('a byte slice', 1)) };
      case builtin.string:
        return { kind: 'string', value: reader.bytes(reader.count('a string', 1)) };
      case builtin.interface:
        return this.#interface(depth);
      default:
        return this.#userValue(id, depth);
    }
  }

  #userValue(id: number, depth: number): GobValue {
    const type = this.#types.get(id);
    if (type === undefined) throw gobError(`a value of the undefined type ${String(id)}`);
    const reader = this.#reader;
    switch (type.kind) {
      case 'opaque':
        return { kind: 'opaque', value: reader.bytes(reader.count('an encoded value', 1)) };
      case 'struct':
        return this.#struct(type.fields, depth);
      case 'array': {
        const length = reader.uint();
        if (length !== BigInt(type.length))
          throw gobError(`an array of ${String(length)} for [${String(type.length)}]`);
        return { kind: 'array', elements: this.#elements(type.length, type.element, depth) };
      }
      case 'slice':
        return { kind: 'slice', elements: this.#elements(reader.count('a slice', 1), type.element, depth) };
      case 'map': {
        const count = reader.count('a map', 2);
        const entries: [GobValue, GobValue][] = [];
        for (let index = 0; index < count; index++) {
          entries.push([this.#value(type.key, depth + 1), this.#value(type.element, depth + 1)]);
        }
        return { kind: 'map', entries };
      }
    }
  }

  #elements(count: number, type: number, depth: number): GobValue[] {
    const elements: GobValue[] = [];
    for (let index = 0; index < count; index++) elements.push(this.#value(type, depth + 1));
    return elements;
  }

  #struct(fields: readonly WireField[], depth: number): GobValue {
    const values = new Map<string, GobValue>();
    let index = -1;
    for (;;) {
      const delta = this.#reader.uint();
      if (delta === 0n) return { kind: 'struct', fields: values };
      if (delta > BigInt(fields.length - 1 - index)) throw gobError('a struct field beyond the last one');
      index += Number(delta);
      const field = fields[index];
      if (field === undefined) throw gobError('a struct field beyond the last one');
      values.set(field.name, this.#value(field.type, depth + 1));
    }
  }

  /**
   * Go flushes what it has when the concrete type still has to be defined: the definition may stand inside the
   * message or begin a new one, and the byte count before the value covers only a part of it. So the value is parsed,
   * never cut out by that count.
   */
  #interface(depth: number): GobValue {
    const reader = this.#reader;
    const nameLength = reader.count('an interface name', 1);
    if (nameLength > this.#limits.nameBytes) throw gobError(`an interface name of ${String(nameLength)} bytes`);
    const type = reader.bytes(nameLength).toString('utf8');
    if (type === '') return { kind: 'interface', type, value: undefined };
    for (;;) {
      if (reader.remaining === 0) reader.beginMessage();
      const id = reader.typeId();
      if (id >= 0) {
        reader.uint();
        return { kind: 'interface', type, value: this.#wrapped(id, depth + 1) };
      }
      this.#define(-id);
      // A chunk count that Go writes when the definition sits inside an interface value.
      if (reader.remaining > 0) reader.uint();
    }
  }

  /** Reads a `wireType` value (see the specification's bootstrap types) and enters it in the table. */
  #define(id: number): void {
    if (id < firstUserId) throw gobError(`a definition of the reserved type ${String(id)}`);
    if (this.#types.has(id)) throw gobError(`a second definition of type ${String(id)}`);
    if (this.#types.size >= this.#limits.types) throw gobError(`more than ${String(this.#limits.types)} types`);
    const definition = this.#wireType();
    this.#types.set(id, definition);
  }

  #wireType(): WireType {
    let type: WireType | undefined;
    this.#fields('wireType', (field) => {
      if (type !== undefined) throw gobError('a type definition with two meanings');
      type = this.#wireTypeField(field);
    });
    if (type === undefined) throw gobError('an empty type definition');
    return type;
  }

  /** @param field 0 ArrayT, 1 SliceT, 2 StructT, 3 MapT, 4 GobEncoderT, 5 BinaryMarshalerT, 6 TextMarshalerT */
  #wireTypeField(field: number): WireType {
    const reader = this.#reader;
    let name = '';
    let key = 0;
    let element = 0;
    let length = 0;
    let fields: WireField[] = [];
    this.#fields(`wireType field ${String(field)}`, (part) => {
      if (part === 0) name = this.#commonType();
      else if (field === 2 && part === 1) fields = this.#fieldTypes();
      else if (field === 3 && part === 1) key = reader.typeId();
      else if ((field === 0 || field === 1) && part === 1) element = reader.typeId();
      else if (field === 3 && part === 2) element = reader.typeId();
      else if (field === 0 && part === 2) length = this.#arrayLength();
      else throw gobError('a type definition with an unknown part');
    });
    switch (field) {
      case 0:
        return { kind: 'array', name, element, length };
      case 1:
        return { kind: 'slice', name, element };
      case 2:
        return { kind: 'struct', name, fields };
      case 3:
        return { kind: 'map', name, key, element };
      case 4:
      case 5:
      case 6:
        return { kind: 'opaque', name };
      default:
        throw gobError(`a type definition of unknown kind ${String(field)}`);
    }
  }

  #arrayLength(): number {
    const length = this.#reader.int();
    if (length < 0n || length > BigInt(this.#limits.nodes)) throw gobError(`an array type of length ${String(length)}`);
    return Number(length);
  }

  /** CommonType{Name string; Id int}: the id repeats what the definition's own number said. */
  #commonType(): string {
    let name = '';
    this.#fields('CommonType', (part) => {
      if (part === 0) name = this.#name();
      else if (part === 1) this.#reader.typeId();
      else throw gobError('a CommonType with an unknown part');
    });
    return name;
  }

  #fieldTypes(): WireField[] {
    const count = this.#reader.count('a struct type', 1);
    if (count > this.#limits.fields) throw gobError(`a struct type of ${String(count)} fields`);
    const result: WireField[] = [];
    for (let index = 0; index < count; index++) {
      let name = '';
      let type = 0;
      this.#fields('fieldType', (part) => {
        if (part === 0) name = this.#name();
        else if (part === 1) type = this.#reader.typeId();
        else throw gobError('a fieldType with an unknown part');
      });
      result.push({ name, type });
    }
    return result;
  }

  #name(): string {
    const length = this.#reader.count('a name', 1);
    if (length > this.#limits.nameBytes) throw gobError(`a name of ${String(length)} bytes`);
    return this.#reader.bytes(length).toString('utf8');
  }

  /** Walks over the fields of a bootstrap struct; all have at most 7. */
  #fields(what: string, read: (index: number) => void): void {
    let index = -1;
    for (;;) {
      const delta = this.#reader.uint();
      if (delta === 0n) return;
      if (delta > 7n || index + Number(delta) > 6) throw gobError(`a ${what} with too many parts`);
      index += Number(delta);
      read(index);
    }
  }
}

/** Floats travel byte-reversed, so that the many zero bytes of small numbers lead. */
function floatFrom(reversed: bigint): number {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(reversed);
  return bytes.readDoubleBE(0);
}
