import { join } from 'node:path';

import * as v from 'valibot';

import { checkSocketPath } from '../../base/index.js';
import type { NetworkPlace } from './definition.js';

/** A request is a line of JSON, and so is its answer. */
export const MAX_LINE_BYTES = 1_024;

/** Who asks: the kernel lets only this user, or members of this group, connect to the socket it came by. */
export interface Principal {
  readonly kind: 'user' | 'group';
  readonly id: number;
}

/** What a supervisor without privileges asks the keeper of its network for. */
export interface TapPetition {
  readonly action: 'attach' | 'detach';
  /** `aa:bb:cc:dd:ee:ff`, locally administered, unicast */
  readonly mac: string;
  readonly machineName: string;
}

export type TapAnswer = { readonly tap: string } | { readonly error: string };

const petition: v.GenericSchema<unknown, TapPetition> = v.object({
  action: v.picklist(['attach', 'detach']),
  mac: v.pipe(v.string(), v.regex(/^[0-9a-f][26ae](:[0-9a-f]{2}){5}$/)),
  machineName: v.pipe(v.string(), v.regex(/^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$/)),
});
const answer: v.GenericSchema<unknown, TapAnswer> = v.union([
  v.object({ tap: v.pipe(v.string(), v.regex(/^tsht[0-9a-f]{10}$/)) }),
  v.object({ error: v.string() }),
]);

/** Where the keeper listens for somebody. */
export function accessSocket(place: NetworkPlace, { kind, id }: Principal): string {
  return checkSocketPath(join(place.access, `${kind}-${String(id)}`));
}

/** @returns undefined when the line is no petition */
export function parsePetition(line: string): TapPetition | undefined {
  return parse(petition, line);
}

/** @returns undefined when the line is no answer: the keeper ended, or is of another version */
export function parseAnswer(line: string): TapAnswer | undefined {
  return parse(answer, line);
}

function parse<T>(schema: v.GenericSchema<unknown, T>, line: string): T | undefined {
  try {
    const result = v.safeParse(schema, JSON.parse(line));
    return result.success ? result.output : undefined;
  } catch {
    return undefined;
  }
}
