/**
 * The type model of encoding/gob (https://pkg.go.dev/encoding/gob, "Encoding Details"): values are self-describing, a
 * stream defines each user type once, by number, before its first use.
 */

/** Ids of the types every gob peer knows. */
export const builtin = {
  bool: 1,
  int: 2,
  uint: 3,
  float: 4,
  bytes: 5,
  string: 6,
  complex: 7,
  interface: 8,
} as const;

/** Go numbers user types from here on; a smaller number in a definition is an attack or an error. */
export const firstUserId = 64;

/** A user type as it was defined on a stream; numbers refer to other types of the same stream. */
export type WireType =
  | { readonly kind: 'array'; readonly name: string; readonly element: number; readonly length: number }
  | { readonly kind: 'slice'; readonly name: string; readonly element: number }
  | { readonly kind: 'struct'; readonly name: string; readonly fields: readonly WireField[] }
  | { readonly kind: 'map'; readonly name: string; readonly key: number; readonly element: number }
  /** GobEncoder, BinaryMarshaler, TextMarshaler: the value is bytes that only Go understands. */
  | { readonly kind: 'opaque'; readonly name: string };

export interface WireField {
  readonly name: string;
  readonly type: number;
}

/** A decoded value. Integers are bigint: Go's are 64 bits wide. */
export type GobValue =
  | { readonly kind: 'bool'; readonly value: boolean }
  | { readonly kind: 'int'; readonly value: bigint }
  | { readonly kind: 'uint'; readonly value: bigint }
  | { readonly kind: 'float'; readonly value: number }
  | { readonly kind: 'complex'; readonly real: number; readonly imaginary: number }
  | { readonly kind: 'bytes'; readonly value: Buffer }
  /** Kept as bytes, since Go strings need not be UTF-8; `text()` decodes leniently. */
  | { readonly kind: 'string'; readonly value: Buffer }
  | { readonly kind: 'array' | 'slice'; readonly elements: readonly GobValue[] }
  | { readonly kind: 'map'; readonly entries: readonly (readonly [GobValue, GobValue])[] }
  /** Only the fields that were sent: a zero field of a struct is left out on the wire. */
  | { readonly kind: 'struct'; readonly fields: ReadonlyMap<string, GobValue> }
  | { readonly kind: 'opaque'; readonly value: Buffer }
  /** `type` is the name Go registered, `value` undefined for nil. */
  | { readonly kind: 'interface'; readonly type: string; readonly value: GobValue | undefined };

/** What the encoder is told to write: the schema of a value. Each named schema is defined once per stream. */
export type GobSchema =
  | 'bool'
  | 'int'
  | 'uint'
  | 'float'
  | 'complex'
  | 'bytes'
  | 'string'
  | { readonly kind: 'array'; readonly element: GobSchema; readonly length: number }
  | { readonly kind: 'slice'; readonly element: GobSchema }
  | { readonly kind: 'map'; readonly key: GobSchema; readonly element: GobSchema }
  | { readonly kind: 'struct'; readonly name: string; readonly fields: readonly (readonly [string, GobSchema])[] }
  /** The concrete types that may stand in the interface, by registered name. */
  | { readonly kind: 'interface'; readonly types: Readonly<Record<string, GobSchema>> };

/** The text of a decoded string, with U+FFFD where Go sent something that is not UTF-8. */
export function text(value: GobValue | undefined): string {
  return value?.kind === 'string' ? value.value.toString('utf8') : '';
}
