import * as v from 'valibot';

import { type ErrorKind, errorKinds } from '../base/index.js';

/** What the process of a network writes once to descriptor 3. */
export type SwitchAnswer =
  { readonly ready: true } | { readonly error: { readonly kind: ErrorKind; readonly message: string } };

const schema: v.GenericSchema<unknown, SwitchAnswer> = v.union([
  v.object({ ready: v.literal(true) }),
  v.object({ error: v.object({ kind: v.picklist(errorKinds), message: v.string() }) }),
]);

/** @returns undefined when the text is no answer: the process died before it had one */
export function parseSwitchAnswer(text: string): SwitchAnswer | undefined {
  const parsed = v.safeParse(v.pipe(v.string(), v.parseJson(), schema), text);
  return parsed.success ? parsed.output : undefined;
}
