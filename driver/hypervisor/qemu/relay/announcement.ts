const BROADCAST = Buffer.alloc(6, 0xff);
const MINIMUM_FRAME = 60;
const RARP = 0x8035;
const REQUEST_REVERSE = 3;

/**
 * The frame by which a guest shows where it is now: a RARP request for itself (RFC 903), as QEMU sends after a migration.
 * Switches and user-mode networks learn the MAC from it, and nobody answers.
 * @param mac `aa:bb:cc:dd:ee:ff`
 */
export function announcement(mac: string): Buffer {
  const own = Buffer.from(mac.replaceAll(':', ''), 'hex');
  const frame = Buffer.alloc(MINIMUM_FRAME);
  BROADCAST.copy(frame);
  own.copy(frame, 6);
  frame.writeUInt16BE(RARP, 12);
  // RFC 826: Ethernet, IPv4, addresses of 6 and 4 bytes.
  frame.writeUInt16BE(1, 14);
  frame.writeUInt16BE(0x0800, 16);
  frame[18] = 6;
  frame[19] = 4;
  frame.writeUInt16BE(REQUEST_REVERSE, 20);
  own.copy(frame, 22);
  own.copy(frame, 32);
  return frame;
}
