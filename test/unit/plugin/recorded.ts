import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';

import { type GobValue, text } from '../../../driver/plugin/gob/index.js';

/** A wire vector recorded from real Go peers (test/fixtures/gob-vectors.json.gz). */
export interface Vector {
  readonly name: string;
  readonly direction: string;
  readonly hex: string;
  readonly decoded: unknown;
  readonly context?: string;
}

export interface RecordedMessage {
  readonly dir: 'client->server' | 'server->client';
  readonly part: string;
  readonly offset: number;
  readonly length: number;
  readonly type_id: number;
  readonly decoded: unknown;
}

/** Both directions of one TCP connection between a real Go client and a real Go server. */
export interface Session {
  readonly name: string;
  readonly c2s_hex: string;
  readonly s2c_hex: string;
  readonly messages: readonly RecordedMessage[];
}

const url = new URL('../../fixtures/gob-vectors.json.gz', import.meta.url);
export const recorded = JSON.parse(gunzipSync(readFileSync(url)).toString('utf8')) as {
  readonly vectors: readonly Vector[];
  readonly sessions: readonly Session[];
};

/** A decoded value in the vectors' own notation, for comparison. */
export function plain(value: GobValue): unknown {
  switch (value.kind) {
    case 'bool':
    case 'float':
      return value.value;
    case 'int':
    case 'uint':
      return Number(value.value);
    case 'complex':
      return [value.real, value.imaginary];
    case 'string':
      return text(value);
    case 'bytes':
    case 'opaque':
      return { $bytes_latin1: value.value.toString('latin1') };
    case 'array':
    case 'slice':
      return value.elements.map(plain);
    case 'map':
      return Object.fromEntries(value.entries.map(([key, item]) => [text(key), plain(item)]));
    case 'struct':
      return Object.fromEntries([...value.fields].map(([key, item]) => [key, plain(item)]));
    case 'interface':
      return value.value === undefined ? null : { $type: value.type, value: plain(value.value) };
  }
}
