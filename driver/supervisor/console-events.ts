/** What a guest image may report; see iso/README.md. */
const guestEvents = new Set(['init', 'userspace', 'disk', 'address', 'ssh', 'docker', 'poweroff']);
const prefix = 'tshyve-event: ';
/** A guest may print lines of any length; ours are short. */
const MAX_LINE_BYTES = 256;

/**
 * Finds the boot milestones in a guest's console output. The guest is not trusted: unknown names and long lines are
 * passed over, arguments are cut down to harmless characters.
 */
export class ConsoleEvents {
  readonly #onEvent: (name: string, argument: string) => void;
  #line = '';
  #overlong = false;

  constructor(onEvent: (name: string, argument: string) => void) {
    this.#onEvent = onEvent;
  }

  push(bytes: Buffer): void {
    const parts = bytes.toString('latin1').split('\n');
    for (const [index, part] of parts.entries()) {
      if (index > 0) this.#endLine();
      if (this.#line.length + part.length > MAX_LINE_BYTES) this.#overlong = true;
      else this.#line += part;
    }
  }

  #endLine(): void {
    const line = this.#line.replace(/\r+$/, '');
    const overlong = this.#overlong;
    this.#line = '';
    this.#overlong = false;
    if (overlong || !line.startsWith(prefix)) return;
    const [name = '', argument = ''] = line.slice(prefix.length).split(' ');
    if (guestEvents.has(name)) this.#onEvent(name, argument.replace(/[^0-9A-Za-z.:_-]/g, '').slice(0, 64));
  }
}
