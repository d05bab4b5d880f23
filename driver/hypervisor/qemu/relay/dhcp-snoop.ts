/** RFC 2131 figure 1, RFC 951; offsets from the start of the UDP payload. */
const TRANSACTION = 4;
const YOUR_ADDRESS = 16;
const CLIENT_HARDWARE = 28;
const COOKIE = 236;
const OPTIONS = 240;
const COOKIE_VALUE = 0x63825363;
/** RFC 2132 sections 3.1, 3.2, 9.6. */
const OPTION_PAD = 0;
const OPTION_END = 255;
const OPTION_TYPE = 53;
const DISCOVER = 1;
const REQUEST = 3;
const ACKNOWLEDGE = 5;

const ETHERNET_HEADER = 14;
const SERVER_PORT = 67;
const CLIENT_PORT = 68;
/** No DHCP message is longer; most frames of a busy link are. */
const MAX_FRAME = 1600;

/** Watches the frames between a guest and its network for the address that a DHCP server gives it. */
export class DhcpSnoop {
  readonly #mac: Buffer;
  readonly #onAddress: (address: string) => void;
  #transaction: number | undefined;

  /** @param mac `aa:bb:cc:dd:ee:ff` */
  constructor(mac: string, onAddress: (address: string) => void) {
    this.#mac = Buffer.from(mac.replaceAll(':', ''), 'hex');
    this.#onAddress = onAddress;
  }

  fromGuest(frame: Buffer): void {
    const message = parse(frame, CLIENT_PORT, SERVER_PORT);
    if (!message?.client.equals(this.#mac)) return;
    if (message.type === DISCOVER || message.type === REQUEST) this.#transaction = message.transaction;
  }

  toGuest(frame: Buffer): void {
    const message = parse(frame, SERVER_PORT, CLIENT_PORT);
    if (message?.type !== ACKNOWLEDGE || !message.client.equals(this.#mac)) return;
    // Others on the network may send such frames too, but do not know which request is under way.
    if (message.transaction !== this.#transaction || !isUnicast(message.address)) return;
    this.#transaction = undefined;
    this.#onAddress([...message.address].join('.'));
  }
}

interface Message {
  readonly type: number;
  readonly transaction: number;
  readonly client: Buffer;
  readonly address: Buffer;
}

/** A DHCP message in an unfragmented UDP datagram between these ports (RFC 791, RFC 768). */
function parse(frame: Buffer, from: number, to: number): Message | undefined {
  if (frame.length > MAX_FRAME || frame.length < ETHERNET_HEADER + 28 + OPTIONS) return undefined;
  if (frame.readUInt16BE(12) !== 0x0800 || frame[ETHERNET_HEADER + 9] !== 17) return undefined;
  const version = frame[ETHERNET_HEADER] ?? 0;
  const header = (version & 0xf) * 4;
  const isWhole = (frame.readUInt16BE(ETHERNET_HEADER + 6) & 0x3fff) === 0;
  if (version >> 4 !== 4 || header < 20 || !isWhole) return undefined;
  const udp = ETHERNET_HEADER + header;
  const payload = frame.subarray(udp + 8);
  if (payload.length < OPTIONS || frame.readUInt16BE(udp) !== from || frame.readUInt16BE(udp + 2) !== to)
    return undefined;
  // Ethernet, and addresses of 6 bytes.
  if (payload[1] !== 1 || payload[2] !== 6 || payload.readUInt32BE(COOKIE) !== COOKIE_VALUE) return undefined;
  const type = messageType(payload.subarray(OPTIONS));
  if (type === undefined) return undefined;
  return {
    type,
    transaction: payload.readUInt32BE(TRANSACTION),
    client: payload.subarray(CLIENT_HARDWARE, CLIENT_HARDWARE + 6),
    address: payload.subarray(YOUR_ADDRESS, YOUR_ADDRESS + 4),
  };
}

function messageType(options: Buffer): number | undefined {
  let at = 0;
  while (at < options.length) {
    const code = options[at++];
    if (code === OPTION_PAD) continue;
    if (code === OPTION_END) return undefined;
    const length = options[at++];
    if (length === undefined) return undefined;
    if (code === OPTION_TYPE && length === 1) return options[at];
    at += length;
  }
  return undefined;
}

/** An address a host can have. */
function isUnicast(address: Buffer): boolean {
  const [first = 0] = address;
  return first !== 0 && first !== 127 && first < 224;
}
