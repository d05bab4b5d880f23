/**
 * Bounds on what a peer may make us hold. The contract's largest real value is a create-flag list of some kilobytes;
 * a config with unknown keys may be larger.
 */
export interface GobLimits {
  /** Bytes of one length-prefixed message. */
  readonly messageBytes: number;
  /** Bytes of all messages that one value spans. */
  readonly valueBytes: number;
  /** Levels of nesting in a value. */
  readonly depth: number;
  /** User types per stream. */
  readonly types: number;
  /** Fields of one struct type. */
  readonly fields: number;
  /** Scalars, elements and fields in one value. */
  readonly nodes: number;
  /** Bytes of a registered interface name (Go refuses more than 1024). */
  readonly nameBytes: number;
}

export const defaultLimits: GobLimits = {
  messageBytes: 16 << 20,
  valueBytes: 32 << 20,
  depth: 64,
  types: 1024,
  fields: 1024,
  nodes: 1 << 20,
  nameBytes: 1024,
};
