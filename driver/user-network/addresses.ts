import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';

import * as v from 'valibot';

import { TshyveError, readTextIfPresent, writeFileAtomic } from '../base/index.js';

/** 10.0.2.0/24 is libslirp's; what lies below is its own. */
const PREFIX = '10.0.2.';
const FIRST = 15;
const LAST = 254;

const schema = v.object({
  version: v.literal(1),
  addresses: v.record(
    v.pipe(v.string(), v.regex(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/)),
    v.pipe(v.string(), v.regex(/^10\.0\.2\.(1[5-9]|[2-9]\d|1\d\d|2[0-4]\d|25[0-4])$/)),
  ),
});

/** Which machine has which address of a user-mode network. A machine keeps its own; only one process writes the file. */
export class AddressBook {
  readonly #path: string;
  /** By MAC, the one that was given longest ago first. */
  #addresses: ReadonlyMap<string, string>;

  private constructor(path: string, addresses: ReadonlyMap<string, string>) {
    this.#path = path;
    this.#addresses = addresses;
  }

  /** A damaged file holds nothing that cannot be chosen again. */
  static async open(path: string): Promise<AddressBook> {
    const text = (await readTextIfPresent(path)) ?? '';
    const parsed = v.safeParse(v.pipe(v.string(), v.parseJson(), schema), text);
    return new AddressBook(path, new Map(parsed.success ? Object.entries(parsed.output.addresses) : []));
  }

  /**
   * The address of a machine, the same whenever it is asked for. When all are given, a machine that is not here loses its own.
   * @param present MACs of the machines that are on the network now
   * @throws TshyveError `precondition` when all of them are here; or what kept the file from being written
   */
  async claim(mac: string, present: ReadonlySet<string>): Promise<string> {
    const known = this.#addresses.get(mac);
    if (known !== undefined) return known;
    const addresses = new Map(this.#addresses);
    const taken = new Set(addresses.values());
    let free = candidates().find((candidate) => !taken.has(candidate));
    if (free === undefined) {
      const [gone] = [...addresses].filter(([owner]) => !present.has(owner));
      if (gone === undefined) {
        throw new TshyveError(
          'precondition',
          `A network has room for ${String(LAST - FIRST + 1)} machines, and all are here.`,
        );
      }
      addresses.delete(gone[0]);
      free = gone[1];
    }
    addresses.set(mac, free);
    const text = JSON.stringify({ version: 1, addresses: Object.fromEntries(addresses) }, null, 2);
    await mkdir(dirname(this.#path), { recursive: true, mode: 0o700 });
    await writeFileAtomic(this.#path, `${text}\n`);
    this.#addresses = addresses;
    return free;
  }
}

function candidates(): string[] {
  return Array.from({ length: LAST - FIRST + 1 }, (_, index) => `${PREFIX}${String(FIRST + index)}`);
}
