import { describe, expect, test } from 'vitest';

import type { Lease } from '../../../../driver/network/leases/index.js';
import {
  type MacFacts,
  bridges,
  diagnose,
  explainFindings,
  isOnBridge,
  parseDefaultInterface,
  parseFirewall,
} from '../../../../driver/network/macos/index.js';
import { parseSubnet } from '../../../../driver/network/shared/subnet.js';

const MAC = '0a:03:c5:00:9f:41';
const NOW = 1_800_000_000_000;
const subnet = (text: string) => parseSubnet(text) ?? expect.fail(text);
const lease = (address: string, mac = MAC, expiresAt = NOW + 3_600_000): Lease => ({
  address,
  mac,
  clientId: `01:${mac}`,
  name: 'dev',
  expiresAt,
});
const open = { enabled: true, blocksAll: false, bootpd: 'unlisted' } as const;
const healthy: MacFacts = {
  now: NOW,
  macos: 26,
  bridges: [{ name: 'bridge100', subnet: subnet('192.168.64.1/24') }],
  leases: [],
  firewall: open,
  neighbours: 3,
  defaultInterface: 'en0',
};
const missing: MacFacts = { ...healthy, machine: { mac: MAC, attempts: new Map() } };
const full = Array.from({ length: 253 }, (_, i) =>
  lease(`192.168.64.${String(i + 2)}`, `02:00:00:00:01:${i.toString(16).padStart(2, '0')}`),
);

describe('a machine without an address', () => {
  test.each<[string, Partial<MacFacts>, string[], RegExp]>([
    ['nothing known', {}, ['no-lease'], /no lease to 0a:03:c5:00:9f:41.*MAC as client identifier/],
    [
      'a lease of an earlier boot that is over',
      { leases: [lease('192.168.64.7', MAC, NOW - 1)] },
      ['no-lease'],
      /no lease to 0a:03:c5:00:9f:41 since its last one was over\. See whether the guest has booted/,
    ],
    [
      'the firewall blocks bootpd',
      { firewall: { ...open, bootpd: 'blocked' } },
      ['firewall'],
      /"sudo \/usr\/libexec\/ApplicationFirewall\/socketfilterfw --add \/usr\/libexec\/bootpd --unblock \/usr\/libexec\/bootpd"/,
    ],
    [
      'the firewall blocks everything',
      { firewall: { ...open, blocksAll: true } },
      ['firewall-blocks-all'],
      /--setblockall off/,
    ],
    [
      'a rule of a firewall that is off',
      { firewall: { enabled: false, blocksAll: false, bootpd: 'blocked' } },
      ['no-lease'],
      /./,
    ],
    ['the firewall cannot be asked', { firewall: undefined }, ['no-lease'], /./],
    [
      'the pool is exhausted',
      { leases: full },
      ['pool-exhausted'],
      /All 253 addresses of 192\.168\.64\.0\/24.*rm \/var\/db\/dhcpd_leases/,
    ],
    ['the pool has one left', { leases: full.slice(1) }, ['no-lease'], /./],
    [
      'a full pool of expired leases',
      { leases: full.map((one) => ({ ...one, expiresAt: NOW - 1 })) },
      ['no-lease'],
      /./,
    ],
    ['a VPN', { defaultInterface: 'utun4' }, ['vpn'], /utun4.*Disconnect the VPN/],
    ['a VPN of another kind', { defaultInterface: 'ppp0' }, ['vpn'], /./],
    ['no default route', { defaultInterface: undefined }, ['no-lease'], /./],
    [
      'the neighbour table is hidden',
      { macos: 27, neighbours: 0 },
      ['no-lease', 'neighbours-hidden'],
      /macOS 27 hides.*Terminal/,
    ],
    ['an empty neighbour table of an older macOS', { neighbours: 0 }, ['no-lease'], /./],
    [
      'the subnet has changed',
      { leases: [lease('192.168.105.4')] },
      ['subnet-changed'],
      /lease is for 192\.168\.105\.4, but the networks here are 192\.168\.64\.0\/24 on bridge100.*Stop the machine and start it again/,
    ],
    [
      'two things at once',
      { firewall: { ...open, bootpd: 'blocked' }, defaultInterface: 'utun4' },
      ['firewall', 'vpn'],
      /./,
    ],
  ])('%s', (_, facts, kinds, words) => {
    const findings = diagnose({ ...missing, ...facts });
    expect(findings.map(({ kind }) => kind)).toEqual(kinds);
    expect(explainFindings(findings)).toMatch(words);
    for (const { cause, fix } of findings) expect(`${cause} ${fix}`).toMatch(/^[A-Z].*\. [A-Z].*\.$|^macOS/);
  });

  test('"no route to host" at its address is a matter of privacy, not of the firewall', () => {
    const machine = { mac: MAC, attempts: new Map([['192.168.64.7', 'EHOSTUNREACH']]) };
    const facts = {
      ...healthy,
      firewall: { ...open, bootpd: 'blocked' as const },
      leases: [lease('192.168.64.7')],
      machine,
    };
    expect(diagnose(facts).map(({ kind }) => kind)).toEqual(['local-network-privacy']);
    expect(explainFindings(diagnose(facts))).toMatch(/192\.168\.64\.7.*Local Network/);
  });

  test('one that has an address and refuses is no matter of the network', () => {
    const machine = { mac: MAC, attempts: new Map([['192.168.64.7', 'ECONNREFUSED']]) };
    expect(diagnose({ ...healthy, leases: [lease('192.168.64.7')], machine })).toEqual([]);
  });
});

describe('a Mac as such', () => {
  test('a healthy one', () => {
    expect(diagnose(healthy)).toEqual([]);
  });
  test('what would be in the way of any machine', () => {
    const facts = {
      ...healthy,
      leases: full,
      firewall: { ...open, bootpd: 'blocked' as const },
      defaultInterface: 'utun1',
    };
    expect(diagnose(facts).map(({ kind }) => kind)).toEqual(['firewall', 'pool-exhausted', 'vpn']);
  });
});

describe('socketfilterfw', () => {
  const app = (rule: string) =>
    `Total number of apps = 2\n\n1 : /Applications/X.app\n   (Allow incoming connections)\n2 : /usr/libexec/bootpd\n   ${rule}\n`;
  test.each([
    ['on', 'Firewall is enabled. (State = 1)', 'Firewall has block all state set to disabled.', '', open],
    [
      'off',
      'Firewall is disabled. (State = 0)',
      '',
      app('( Block incoming connections )'),
      { enabled: false, blocksAll: false, bootpd: 'blocked' },
    ],
    ['blocking all', 'Firewall is enabled. (State = 2)', '', '', { ...open, blocksAll: true }],
    [
      'blocking all, in words',
      'Firewall is enabled. (State = 1)',
      'Firewall is set to block all non-essential incoming connections',
      '',
      { ...open, blocksAll: true },
    ],
    [
      'bootpd blocked',
      'Firewall is enabled. (State = 1)',
      '',
      app('( Block incoming connections )'),
      { ...open, bootpd: 'blocked' },
    ],
    [
      'bootpd allowed',
      'Firewall is enabled. (State = 1)',
      '',
      app('(Allow incoming connections)'),
      { ...open, bootpd: 'allowed' },
    ],
    ['words nobody knows', 'La cortafuegos', '?', '?', { enabled: false, blocksAll: false, bootpd: 'unlisted' }],
  ])('%s', (_, state, blockAll, apps, expected) => {
    expect(parseFirewall(state, blockAll, apps)).toEqual(expected);
  });
});

test('route', () => {
  expect(
    parseDefaultInterface('   route to: default\n  gateway: 10.0.0.1\n  interface: en0\n      flags: <UP>\n'),
  ).toBe('en0');
  expect(parseDefaultInterface('route: writing to routing socket: not in table')).toBeUndefined();
});

test('the bridges of vmnet among the interfaces', () => {
  const info = (cidr: string, family: 'IPv4' | 'IPv6' = 'IPv4') => ({
    address: cidr.split('/')[0] ?? '',
    netmask: '',
    mac: '',
    internal: false,
    cidr,
    ...(family === 'IPv4' ? { family } : { family, scopeid: 0 }),
  });
  const found = bridges({
    en0: [info('10.0.0.5/24')],
    bridge0: [info('10.1.0.1/24')],
    bridge100: [info('fe80::1/64', 'IPv6'), info('192.168.64.1/24')],
    bridge101: [info('192.168.105.1/24')],
  });
  expect(found.map(({ name }) => name)).toEqual(['bridge100', 'bridge101']);
  expect(isOnBridge('192.168.105.9', found)).toBe(true);
  expect(isOnBridge('192.168.106.9', found)).toBe(false);
  expect(isOnBridge('192.168.106.9', [])).toBe(true);
});
