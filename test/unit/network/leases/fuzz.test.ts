import { isIPv4 } from 'node:net';

import { expect, test } from 'vitest';

import {
  parseArp,
  parseBootpdLeases,
  parseDhcpdLeases,
  parseDnsmasqLeases,
  parseIpNeigh,
  parseLibvirtLeases,
  parseNetworkdLeases,
  parseProcNetArp,
} from '../../../../driver/network/leases/index.js';

/** mulberry32: a failing run can be repeated. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Copies, cuts, doubles and overwrites pieces of a text. */
function mutate(text: string, next: () => number): string {
  let result = text;
  for (let round = 1 + Math.floor(next() * 4); round > 0; round--) {
    const at = Math.floor(next() * (result.length + 1));
    const length = Math.floor(next() * 20);
    const from = Math.floor(next() * (result.length + 1));
    const pick = next();
    if (pick < 0.25) result = result.slice(0, at) + result.slice(at + length);
    else if (pick < 0.5) result = result.slice(0, at) + result.slice(from, from + length) + result.slice(at);
    else if (pick < 0.75) result = result.slice(0, at) + String.fromCharCode(next() * 256) + result.slice(at + 1);
    else if (pick < 0.9)
      result =
        result.slice(0, at) +
        (['{', '}', '"', '\\', '\n', '=', ';', '*', ','][Math.floor(next() * 9)] ?? '') +
        result.slice(at);
    else result = result.slice(0, at);
  }
  return result;
}

const samples = {
  bootpd:
    '{\n\tname=dev\n\tip_address=192.168.64.7\n\thw_address=1,a:3:c5:0:9f:41\n\tidentifier=1,a:3:c5:0:9f:41\n\tlease=0x69a3f0c1\n}\n',
  dnsmasq:
    '1795516713 02:00:00:00:00:01 10.1.1.34 dev 01:02:00:00:00:00:01\n0 02:00:00:00:00:03 10.1.1.33 * *\nduid 00:01\n',
  libvirt:
    '[{"ip-address":"192.168.122.57","mac-address":"52:54:00:aa:bb:01","client-id":"01:52","expiry-time":1795520000}]',
  networkd:
    '{"Leases":[{"ClientId":[1,2,0,0,0,0,9],"Address":[10,0,0,5],"AddressString":"10.0.0.5","HardwareAddress":[2,0,0,0,0,9],"ExpirationRealtimeUSec":1795520100000000}]}',
  dhcpd:
    'lease 10.0.0.2 {\n  ends 1 2026/11/23 22:46:14;\n  binding state active;\n  hardware ethernet 2:0:0:0:0:2;\n  uid "\\001\\"}";\n}\n',
};

test.each([
  ['bootpd', parseBootpdLeases],
  ['dnsmasq', parseDnsmasqLeases],
  ['libvirt', parseLibvirtLeases],
  ['networkd', parseNetworkdLeases],
  ['dhcpd', parseDhcpdLeases],
] as const)('20,000 mutated files of %s give clean leases or none', (name, parse) => {
  const next = random(4711);
  for (let round = 0; round < 20_000; round++) {
    const text = mutate(samples[name] + samples[name], next);
    for (const lease of parse(text)) {
      const clean =
        isIPv4(lease.address) &&
        !Number.isNaN(lease.expiresAt) &&
        (lease.mac === undefined || /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(lease.mac)) &&
        (lease.clientId === undefined || /^[0-9a-f]{2}(:[0-9a-f]{2}){1,254}$/.test(lease.clientId));
      if (!clean) expect.fail(`${JSON.stringify(lease)} from ${JSON.stringify(text)}`);
    }
  }
});

test('mutated neighbour tables give clean entries or none', () => {
  const next = random(815);
  const tables = [
    [parseProcNetArp, 'IP address HW type\n10.1.1.31 0x1 0x2 52:54:00:0a:0b:0c * br0\n'],
    [parseIpNeigh, '[{"dst":"10.0.0.1","dev":"br0","lladdr":"52:54:00:0a:0b:0c","state":["STALE"]}]'],
    [parseArp, '? (192.168.64.7) at a:3:c5:0:9f:41 on bridge100 ifscope [bridge]\n'],
  ] as const;
  for (let round = 0; round < 20_000; round++) {
    for (const [parse, sample] of tables) {
      for (const { address, mac } of parse(mutate(sample, next))) {
        if (!isIPv4(address) || !/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(mac)) expect.fail(`${address} ${mac}`);
      }
    }
  }
});
