import { generateKeyPairSync, randomBytes } from 'node:crypto';

/** An SSH key pair as files hold it. */
export interface KeyPair {
  /** `OPENSSH PRIVATE KEY` PEM, not encrypted. */
  readonly privateKey: string;
  /** One line of authorized_keys. */
  readonly publicKey: string;
}

/**
 * Makes an Ed25519 key pair. The only kind that docker-machine's old native client (no PKCS#8, RSA only with SHA-1),
 * OpenSSH and ssh2 all read. We write OpenSSH's format ourselves (PROTOCOL.key of OpenSSH; RFC 8709): Node emits PKCS#8,
 * and ssh2's generator corrupts one key in 256.
 */
export function createKeyPair(comment = 'tshyve'): KeyPair {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  // The raw keys are the tails of the fixed-size DER forms (RFC 8410).
  const seed = privateKey.export({ format: 'der', type: 'pkcs8' }).subarray(-32);
  const point = publicKey.export({ format: 'der', type: 'spki' }).subarray(-32);
  return encodeKeyPair(seed, point, comment);
}

/** @param seed 32 bytes of private key, @param point 32 bytes of public key */
export function encodeKeyPair(seed: Buffer, point: Buffer, comment: string): KeyPair {
  const type = 'ssh-ed25519';
  const publicBlob = Buffer.concat([field(type), field(point)]);
  // Two equal numbers let a reader with a passphrase tell whether it decrypted well.
  const check = randomBytes(4);
  const secret = Buffer.concat([check, check, publicBlob, field(Buffer.concat([seed, point])), field(comment)]);
  const padding = Buffer.from(Array.from({ length: (8 - (secret.length % 8)) % 8 }, (_, index) => index + 1));
  const body = Buffer.concat([
    Buffer.from('openssh-key-v1\0'),
    field('none'),
    field('none'),
    field(''),
    uint32(1),
    field(publicBlob),
    field(Buffer.concat([secret, padding])),
  ]);
  const lines = body.toString('base64').match(/.{1,70}/g) ?? [];
  return {
    privateKey: `-----BEGIN OPENSSH PRIVATE KEY-----\n${lines.join('\n')}\n-----END OPENSSH PRIVATE KEY-----\n`,
    publicKey: `${type} ${publicBlob.toString('base64')} ${comment}\n`,
  };
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** An SSH string (RFC 4251 section 5). */
function field(value: string | Buffer): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([uint32(bytes.length), bytes]);
}
