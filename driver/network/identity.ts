import { createHash } from 'node:crypto';

function digest(purpose: string, storePath: string, machineName: string): Buffer {
  return createHash('sha256').update(`tshyve-${purpose}\0${storePath}\0${machineName}`).digest();
}

/**
 * The MAC address of a machine: unicast, locally administered (IEEE 802 clause 8), the same whenever it is asked for.
 * The store's path is part of it, since two stores on one network may hold machines of one name.
 */
export function macFor(storePath: string, machineName: string): string {
  const bytes = digest('mac', storePath, machineName).subarray(0, 6);
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 0x02;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** A stable UUID (RFC 9562 version 8: custom) for SMBIOS. */
export function uuidFor(storePath: string, machineName: string): string {
  const bytes = digest('uuid', storePath, machineName).subarray(0, 16);
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x80;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}
