import { TshyveError } from '../../../base/index.js';

const MAGIC = 'VMN3T';
const PROTOCOL_VERSION = 22;
const COMMIT_BYTES = 40;
const UUID_BYTES = 36;
/** The command byte and the largest command's arguments, uuid and IPv4 address; shorter ones are padded. */
const COMMAND_BYTES = 1 + UUID_BYTES + 4;
const COMMAND_ETHERNET = 1;
const REPLY_INTERFACE = 1;
const REPLY_DISCONNECT = 2;

export const greetingBytes = MAGIC.length + 4 + COMMIT_BYTES;
/** The type byte and the largest reply, a length and 256 bytes of text. */
export const replyBytes = 1 + 1 + 256;

/** What VPNKit says about the interface it gives us. */
export interface VpnkitInterface {
  readonly mtu: number;
  /** `aa:bb:cc:dd:ee:ff`; VPNKit expects the guest to have it. */
  readonly mac: string;
}

/**
 * What both sides send first of all. Source: VPNKit's docs/ethernet.md and HyperKit's pci_virtio_net_vpnkit.c.
 */
export function vpnkitGreeting(): Buffer {
  // A version control id that the peer logs; we have none of its kind.
  const bytes = Buffer.alloc(greetingBytes, '0');
  bytes.write(MAGIC, 'latin1');
  bytes.writeUInt32LE(PROTOCOL_VERSION, MAGIC.length);
  return bytes;
}

/** @throws TshyveError `protocol` */
export function checkVpnkitGreeting(bytes: Buffer): void {
  if (bytes.subarray(0, MAGIC.length).toString('latin1') !== MAGIC) {
    throw new TshyveError('protocol', "The peer does not speak VPNKit's protocol: its greeting is another one.");
  }
}

/** @param uuid 36 characters; VPNKit gives the same one the same MAC and IP address */
export function vpnkitEthernetCommand(uuid: string): Buffer {
  const bytes = Buffer.alloc(COMMAND_BYTES);
  bytes[0] = COMMAND_ETHERNET;
  bytes.write(uuid.slice(0, UUID_BYTES), 1, 'latin1');
  return bytes;
}

/** @throws TshyveError `precondition` with VPNKit's reason when it refuses, `protocol` */
export function parseVpnkitReply(bytes: Buffer): VpnkitInterface {
  const type = bytes[0];
  if (type === REPLY_DISCONNECT) {
    const text = bytes.subarray(2, 2 + (bytes[1] ?? 0)).toString('latin1');
    throw new TshyveError(
      'precondition',
      `VPNKit refuses the connection: ${text.replace(/[^ -~]/g, '?')}. Its log says more.`,
    );
  }
  if (type !== REPLY_INTERFACE) {
    throw new TshyveError('protocol', `VPNKit sent a reply of unknown type ${String(type)}.`);
  }
  const mac = [...bytes.subarray(5, 11)].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
  return { mtu: bytes.readUInt16LE(1), mac };
}
