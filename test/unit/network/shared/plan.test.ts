import { describe, expect, test } from 'vitest';

import { bridgeName, parseDefinition, tapName } from '../../../../driver/network/shared/definition.js';
import { parseRoutes } from '../../../../driver/network/shared/host.js';
import { quote, serviceUnit, unitName } from '../../../../driver/network/shared/service-unit.js';
import {
  type Subnet,
  chooseIPv6Prefix,
  chooseSubnet,
  contains,
  formatSubnet,
  hostAt,
  overlaps,
  parseSubnet,
} from '../../../../driver/network/shared/subnet.js';

function subnet(text: string): Subnet {
  const parsed = parseSubnet(text);
  if (parsed === undefined) throw new Error(text);
  return parsed;
}

describe('subnets', () => {
  test.each([
    ['10.1.2.3/8', '10.0.0.0/8'],
    ['10.1.2.3', '10.1.2.3/32'],
    ['255.255.255.255/1', '128.0.0.0/1'],
    ['0.0.0.0/0', '0.0.0.0/0'],
  ])('%s is %s', (text, expected) => {
    expect(formatSubnet(subnet(text))).toBe(expected);
  });
  test.each(['', '10.0.0.0/33', '10.0.0/8', '10.0.0.0/8/8', '::/0', '10.0.0.0/-1', 'default'])('%j is none', (text) => {
    expect(parseSubnet(text)).toBeUndefined();
  });
  test.each([
    ['10.0.0.0/8', '10.9.0.0/16', true],
    ['10.9.0.0/16', '10.0.0.0/8', true],
    ['10.0.0.0/24', '10.0.1.0/24', false],
    ['0.0.0.0/0', '200.0.0.0/24', true],
  ])('%s and %s overlap: %s', (a, b, expected) => {
    expect(overlaps(subnet(a), subnet(b))).toBe(expected);
  });
  test('addresses', () => {
    expect(hostAt(subnet('192.168.71.0/24'), 1)).toBe('192.168.71.1');
    expect(() => hostAt(subnet('192.168.71.0/24'), 256)).toThrow(RangeError);
    expect(contains(subnet('192.168.71.0/24'), '192.168.71.200')).toBe(true);
    expect(contains(subnet('192.168.71.0/24'), '192.168.72.1')).toBe(false);
    expect(contains(subnet('192.168.71.0/24'), 'fe80::1')).toBe(false);
  });
  test('the choice is stable, free of what is routed, and of what guests use inside', () => {
    expect(chooseSubnet('a', [])).toEqual(chooseSubnet('a', []));
    const taken: Subnet[] = [];
    for (let index = 0; index < 300; index++) {
      const chosen = chooseSubnet('a', taken);
      if (chosen === undefined) throw new Error('no subnet left');
      expect(taken.some((other) => overlaps(other, chosen))).toBe(false);
      expect(overlaps(chosen, subnet('10.96.0.0/12'))).toBe(false);
      taken.push(chosen);
    }
    expect(chooseSubnet('a', [subnet('192.168.0.0/16'), subnet('10.0.0.0/8')])).toBeUndefined();
  });
  test('IPv6 prefixes are unique local ones', () => {
    expect(chooseIPv6Prefix('a')).toMatch(/^fd[0-9a-f]{2}:[0-9a-f]{4}:[0-9a-f]{4}:[0-9a-f]{4}::\/64$/);
    expect(chooseIPv6Prefix('a')).not.toBe(chooseIPv6Prefix('b'));
  });
});

test('routes of ip -j', () => {
  const json = JSON.stringify([
    { dst: 'default', gateway: '192.0.2.1' },
    { dst: '192.0.2.0/24', dev: 'eth0' },
    { type: 'local', dst: '127.0.0.1' },
    { dst: 'fe80::/64' },
    7,
  ]);
  expect(parseRoutes(json).map(formatSubnet)).toEqual(['192.0.2.0/24', '127.0.0.1/32']);
  expect(parseRoutes('')).toEqual([]);
  expect(parseRoutes('{')).toEqual([]);
});

test('interface names fit the kernel and stay apart', () => {
  const names = ['a', 'shared', 'a-very-long-name-of-a-network-00', 'a-very-long-name-of-a-network-01'].map(bridgeName);
  expect(new Set(names).size).toBe(4);
  for (const name of [...names, tapName('02:aa:bb:cc:dd:ee')]) expect(name.length).toBeLessThanOrEqual(15);
});

test.each([
  ['', 'is not valid JSON'],
  ['[]', 'has version undefined'],
  ['{"version":2}', 'has version 2'],
  ['{"version":1,"ipv4":"10.0.0.0/8","ipv6":"fd00:1111:2222:3333::/64"}', 'has no valid "ipv4"'],
  ['{"version":1,"ipv4":"10.0.0.0/24","ipv6":"2001:db8::/64"}', 'has no valid "ipv6"'],
])('the definition %j is refused', (text, why) => {
  expect(() => parseDefinition(text, 'a', '/x')).toThrow(why);
});

test.each([
  [undefined, { users: [], groups: [] }],
  [
    { users: [1000], groups: [5] },
    { users: [1000], groups: [5] },
  ],
])('who may attach: %j', (permitted, expected) => {
  const text = JSON.stringify({ version: 1, ipv4: '10.1.2.0/24', ipv6: 'fd00:0001:0002:0003::/64', permitted });
  expect(parseDefinition(text, 'a', '/x').permitted).toEqual(expected);
});

test.each([[{}], [{ users: [-1], groups: [] }], [{ users: [0.5], groups: [] }], [{ users: ['0'], groups: [] }], [7]])(
  'who may attach is refused: %j',
  (permitted) => {
    const text = JSON.stringify({ version: 1, ipv4: '10.1.2.0/24', ipv6: 'fd00:0001:0002:0003::/64', permitted });
    expect(() => parseDefinition(text, 'a', '/x')).toThrow('has no valid "permitted"');
  },
);

test.each([
  ['/usr/bin/node', '/usr/bin/node'],
  ['/opt/my tools/tshyve', '"/opt/my tools/tshyve"'],
  ['/opt/100%/$HOME', '/opt/100%%/$$HOME'],
  ['/a"b\\c', '"/a\\"b\\\\c"'],
])('a unit writes %s as %s', (word, expected) => {
  expect(quote(word)).toBe(expected);
});

test('a unit names its network and the paths it needs', () => {
  const text = serviceUnit('lab', ['/usr/bin/node', '/opt/a b/tshyve.cjs'], '/var/lib/tshyve/networks');
  expect(unitName('lab')).toBe('tshyve-network-lab.service');
  expect(text).toContain('\nExecStart=/usr/bin/node "/opt/a b/tshyve.cjs" network up lab --foreground\n');
  expect(text).toContain('\nReadWritePaths=/var/lib/tshyve/networks -/run/xtables.lock\n');
});
