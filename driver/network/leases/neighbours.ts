import { isIPv4 } from 'node:net';

import { parseMac } from './lease.js';
import { isRecord, parseJson, textOf } from './json.js';

/** An entry of the host's neighbour table that has a hardware address. */
export interface Neighbour {
  readonly address: string;
  readonly mac: string;
  /** Interface, e.g. `bridge100`. */
  readonly device: string;
}

/** ATF_COM of <net/if_arp.h>: the entry is complete. */
const COMPLETE = 0x2;

/** Linux' /proc/net/arp (proc(5)). */
export function parseProcNetArp(text: string): Neighbour[] {
  const neighbours: Neighbour[] = [];
  for (const line of text.split('\n').slice(1)) {
    const [address = '', , flags = '', hardware = '', , device = ''] = line.trim().split(/\s+/);
    const mac = parseMac(hardware);
    const complete = /^0x[0-9a-f]+$/i.test(flags) && (Number(flags) & COMPLETE) !== 0;
    if (complete && mac !== undefined && isIPv4(address)) neighbours.push({ address, mac, device });
  }
  return neighbours;
}

/** `ip -j neigh show` (ip-neighbour(8)); entries the kernel gave up on are left out. */
export function parseIpNeigh(text: string): Neighbour[] {
  const rows = parseJson(text);
  if (!Array.isArray(rows)) return [];
  const neighbours: Neighbour[] = [];
  for (const row of rows as unknown[]) {
    if (!isRecord(row)) continue;
    const address = textOf(row['dst']) ?? '';
    const mac = parseMac(textOf(row['lladdr']) ?? '');
    const states = Array.isArray(row['state']) ? (row['state'] as unknown[]) : [];
    const dead = states.includes('FAILED') || states.includes('INCOMPLETE');
    if (!dead && mac !== undefined && isIPv4(address)) {
      neighbours.push({ address, mac, device: textOf(row['dev']) ?? '' });
    }
  }
  return neighbours;
}

/**
 * `arp -an` of macOS: `? (192.168.64.7) at a:3:c5:0:9f:41 on bridge100 ifscope [bridge]`. From macOS 27 on it is empty
 * for programs without Apple's permission, so that nothing here proves absence.
 */
export function parseArp(text: string): Neighbour[] {
  const neighbours: Neighbour[] = [];
  for (const match of text.matchAll(/\(([\d.]+)\) at ([0-9a-f:]+) on (\S+)/gi)) {
    const [, address = '', hardware = '', device = ''] = match;
    const mac = parseMac(hardware);
    if (mac !== undefined && isIPv4(address)) neighbours.push({ address, mac, device });
  }
  return neighbours;
}
