import * as v from 'valibot';

import { TshyveError, readTextIfPresent, writeFileAtomic } from '../base/index.js';
import { type HostPort, protocols } from '../hypervisor/index.js';

const RECORD_VERSION = 1;

/**
 * What we know of a machine and the client need not: `tshyve.json`. It is written before anything else of a machine
 * is made, and `complete` only once the machine has answered, so that a half-made machine can be told from a whole one
 * although libmachine saves nothing after a failed create.
 */
export interface MachineRecord {
  readonly version: typeof RECORD_VERSION;
  readonly complete: boolean;
  /** `aa:bb:cc:dd:ee:ff`, the seed of the machine's identity; never changes. */
  readonly mac: string;
  /** RFC 4122 text form */
  readonly uuid: string;
  /** Loopback address of a machine on a user-mode network, see network/address. */
  readonly hostAddress?: string;
  /** Ports that a user has asked for, beside those that every machine has. */
  readonly ports?: readonly AddedPort[];
  /** The guest's SSH host key seen at first contact, base64 of the SSH wire form. */
  readonly hostKey?: string;
  /** Identity of the ISO that kernel and initrd were taken from, to notice docker-machine's `upgrade`. */
  readonly isoStamp?: string;
  /** How the image wants to be booted. */
  readonly boot?: { readonly commandLine: string; readonly needsIsoDisk: boolean; readonly imageVersion?: string };
}

/** A host port that leads to the machine. */
export interface AddedPort extends HostPort {
  readonly guestPort: number;
}

const portNumber = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(65_535));
const portsSchema = v.array(v.object({ protocol: v.picklist(protocols), hostPort: portNumber, guestPort: portNumber }));

/** @returns undefined when the machine has none */
export async function readRecord(path: string): Promise<MachineRecord | undefined> {
  const text = await readTextIfPresent(path);
  if (text === undefined) return undefined;
  return parseRecord(text, path);
}

export async function writeRecord(path: string, record: MachineRecord): Promise<void> {
  await writeFileAtomic(path, `${JSON.stringify(record, null, 2)}\n`);
}

/** @throws TshyveError `invalid-config` that names the file and what is wrong in it */
export function parseRecord(text: string, path: string): MachineRecord {
  const bad = (what: string, cause?: unknown) =>
    new TshyveError(
      'invalid-config',
      `${path} ${what}. The disk is untouched: remove the machine, or restore the file from a backup.`,
      { cause },
    );
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw bad('is not valid JSON', error);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw bad('is not a JSON object');
  const fields = value as Record<string, unknown>;
  if (typeof fields['version'] === 'number' && fields['version'] > RECORD_VERSION) {
    throw bad(`was written by a newer tshyve (record version ${String(fields['version'])}); upgrade tshyve`);
  }
  const text_ = (key: string, pattern: RegExp): string => {
    const field = fields[key];
    if (typeof field !== 'string' || !pattern.test(field)) throw bad(`has no valid "${key}"`);
    return field;
  };
  const optional = (key: string): string | undefined => {
    const field = fields[key];
    return typeof field === 'string' ? field : undefined;
  };
  const hostKey = optional('hostKey');
  const isoStamp = optional('isoStamp');
  const boot = parseBoot(fields['boot']);
  const ports = v.safeParse(portsSchema, fields['ports'] ?? []);
  if (!ports.success) throw bad('has no valid "ports"');
  return {
    version: RECORD_VERSION,
    complete: fields['complete'] === true,
    mac: text_('mac', /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/),
    uuid: text_('uuid', /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/),
    ...(fields['hostAddress'] === undefined ? {} : { hostAddress: text_('hostAddress', /^127(\.[0-9]{1,3}){3}$/) }),
    ...(ports.output.length === 0 ? {} : { ports: ports.output }),
    ...(hostKey === undefined ? {} : { hostKey }),
    ...(isoStamp === undefined ? {} : { isoStamp }),
    ...(boot === undefined ? {} : { boot }),
  };
}

function parseBoot(value: unknown): MachineRecord['boot'] {
  if (typeof value !== 'object' || value === null) return undefined;
  const { commandLine, needsIsoDisk, imageVersion } = value as Record<string, unknown>;
  if (typeof commandLine !== 'string' || typeof needsIsoDisk !== 'boolean') return undefined;
  return { commandLine, needsIsoDisk, ...(typeof imageVersion === 'string' ? { imageVersion } : {}) };
}
