import { closeSync, writeSync } from 'node:fs';

import * as v from 'valibot';

import { type ErrorKind, TshyveError, errorKinds, messageOf } from './errors.js';

/** Where a process that `startDetached` has started answers; whoever started it may be gone already. */
export const ANSWER_FD = 3;

/** What such a process says, once. */
export type DetachedAnswer =
  { readonly ready: true } | { readonly error: { readonly kind: ErrorKind; readonly message: string } };

const schema: v.GenericSchema<unknown, DetachedAnswer> = v.union([
  v.object({ ready: v.literal(true) }),
  v.object({ error: v.object({ kind: v.picklist(errorKinds), message: v.string() }) }),
]);

/** @returns undefined when the text is no answer: the process died before it had one */
export function parseDetachedAnswer(text: string): DetachedAnswer | undefined {
  const parsed = v.safeParse(v.pipe(v.string(), v.parseJson(), schema), text);
  return parsed.success ? parsed.output : undefined;
}

/** Tells whoever started this process that it does its work now. Only the first answer counts. */
export function answerReady(): void {
  answer({ ready: true });
}

/** Tells whoever started this process why it ends. Only the first answer counts. */
export function answerFailure(error: unknown): void {
  answer({ error: { kind: TshyveError.is(error) ? error.kind : 'internal', message: messageOf(error) } });
}

let answered = false;

function answer(text: DetachedAnswer): void {
  // The descriptor's number may be somebody else's after the first.
  if (answered) return;
  answered = true;
  try {
    writeSync(ANSWER_FD, `${JSON.stringify(text)}\n`);
    closeSync(ANSWER_FD);
  } catch {
    // Nobody lives to hear it. The work goes on all the same.
  }
}
