import { describe, expect, test } from 'vitest';

import {
  type Lease,
  parseArp,
  parseDhcpdLeases,
  parseDnsmasqLeases,
  parseIpNeigh,
  parseLibvirtLeases,
  parseNetworkdLeases,
  parseProcNetArp,
} from '../../../../driver/network/leases/index.js';

const brief = (leases: Lease[]) => leases.map(({ address, mac }) => `${address} ${mac ?? '-'}`);

describe('dnsmasq', () => {
  const text = `1795516713 02:00:00:00:00:01 10.197.51.34 minikube ff:11:22:33:44:00:01:00:01:2a:aa:aa:aa:02:00:00:00:00:01
0 02:00:00:00:00:03 10.197.51.33 n3 01:02:00:00:00:00:03
1795516713 02:00:00:00:00:02 10.197.51.32 * 01:02:00:00:00:00:02
1795516713 06-02:00:00:00:00:04 10.197.51.30 * *
duid 00:01:00:01:32:97:7c:e8:7a:51:42:2c:50:26
1795516713 T12345 fd00::1 n6 00:01
`;
  test('names, unlimited leases, foreign hardware, IPv6 leases', () => {
    expect(parseDnsmasqLeases(text)).toEqual([
      {
        address: '10.197.51.34',
        mac: '02:00:00:00:00:01',
        clientId: 'ff:11:22:33:44:00:01:00:01:2a:aa:aa:aa:02:00:00:00:00:01',
        name: 'minikube',
        expiresAt: 1795516713_000,
      },
      {
        address: '10.197.51.33',
        mac: '02:00:00:00:00:03',
        clientId: '01:02:00:00:00:00:03',
        name: 'n3',
        expiresAt: Infinity,
      },
      {
        address: '10.197.51.32',
        mac: '02:00:00:00:00:02',
        clientId: '01:02:00:00:00:00:02',
        name: undefined,
        expiresAt: 1795516713_000,
      },
      {
        address: '10.197.51.30',
        mac: undefined,
        clientId: undefined,
        name: undefined,
        expiresAt: 1795516713_000,
      },
    ]);
  });
  test.each([
    ['', []],
    ['1795516713 02:00:00:00:00:01 10.0.0.1 a *', []],
    ['1795516713 02:00:00:00:00:01 10.0.0.1 a *\n1795516713 02:0', ['10.0.0.1 02:00:00:00:00:01']],
    ['soon 02:00:00:00:00:01 10.0.0.1 a *\n', []],
    ['1795516713 02:00:00:00:00:01 10.0.0.1 a * more\n', []],
    ['1795516713 02:00:00:00:00:01 10.0.0 a *\n', []],
    ['# a comment\n\n1795516713 02:00:00:00:00:01 10.0.0.1\n', ['10.0.0.1 02:00:00:00:00:01']],
  ])('%j', (text, expected) => {
    expect(brief(parseDnsmasqLeases(text))).toEqual(expected);
  });
});

describe('libvirt', () => {
  test.each<[string, string, string[]]>([
    ['nothing yet', '', []],
    ['no leases', '[\n\n]\n', []],
    ['half written', '[ { "ip-address": "192.168.122.57", ', []],
    ['no array', '{"ip-address": "192.168.122.57"}', []],
    [
      'newest last, IPv6 rows, rows of the wrong shape',
      JSON.stringify([
        {
          'ip-address': '192.168.122.57',
          'mac-address': '52:54:00:aa:bb:01',
          'client-id': '01:52:54:00:aa:bb:01',
          'expiry-time': 1,
        },
        { 'ip-address': 'fd00::5', 'mac-address': '52:54:00:aa:bb:01', iaid: '1', 'expiry-time': 1 },
        7,
        { 'ip-address': 5, 'expiry-time': 1 },
        {
          'ip-address': '192.168.122.58',
          'mac-address': '52:54:00:aa:bb:02',
          hostname: 'n',
          'expiry-time': 1795520100,
        },
      ]),
      ['192.168.122.58 52:54:00:aa:bb:02', '192.168.122.57 52:54:00:aa:bb:01'],
    ],
  ])('%s', (_, text, expected) => {
    expect(brief(parseLibvirtLeases(text))).toEqual(expected);
  });
});

describe('systemd-networkd', () => {
  const row = {
    ClientId: [1, 2, 0, 0, 0, 0, 9],
    Address: [10, 0, 0, 5],
    AddressString: '10.0.0.5',
    Hostname: 'n1',
    HardwareAddressType: 1,
    HardwareAddressLength: 6,
    HardwareAddress: [2, 0, 0, 0, 0, 9],
    ExpirationUSec: 5,
    ExpirationRealtimeUSec: 1795520100_000_000,
  };
  const file = (...rows: unknown[]) => JSON.stringify({ BootID: 'x', Leases: rows });
  test('a whole row', () => {
    expect(parseNetworkdLeases(file(row))).toEqual([
      {
        address: '10.0.0.5',
        mac: '02:00:00:00:00:09',
        clientId: '01:02:00:00:00:00:09',
        name: 'n1',
        expiresAt: 1795520100_000,
      },
    ]);
  });
  test('a row of an older version', () => {
    const { ClientId, Address } = row;
    expect(parseNetworkdLeases(file({ ClientId, Address }))).toMatchObject([
      { address: '10.0.0.5', mac: '02:00:00:00:00:09', expiresAt: Infinity },
    ]);
  });
  test.each([
    [''],
    ['{}'],
    [file({ ...row, AddressString: undefined, Address: [10, 0, 0] })],
    [file({ ...row, AddressString: undefined, Address: [10, 0, 0, 256] })],
    [file('row', null, [])],
  ])('%j holds no lease', (text) => {
    expect(parseNetworkdLeases(text)).toEqual([]);
  });
  test('hardware that is not Ethernet has no MAC', () => {
    expect(parseNetworkdLeases(file({ ...row, HardwareAddressType: 32, ClientId: [255, 1] }))[0]?.mac).toBeUndefined();
    expect(parseNetworkdLeases(file({ ...row, HardwareAddress: [2, 0, 0, 0, 0, 300] }))[0]?.mac).toBe(
      '02:00:00:00:00:09',
    );
  });
});

describe('ISC dhcpd', () => {
  const block = (address: string, state: string, more = '') => `lease ${address} {
  starts 1 2026/11/23 22:46:12;
  ends 1 2026/11/23 22:46:14;
  binding state ${state};
  next binding state free;
  hardware ethernet 2:0:0:0:0:2;
  uid "\\001\\002\\000\\000\\000\\000\\002";
${more}}
`;
  test('a block', () => {
    expect(parseDhcpdLeases(`# comment { } ;\n${block('10.0.0.2', 'active', '  client-hostname "n2";\n')}`)).toEqual([
      {
        address: '10.0.0.2',
        mac: '02:00:00:00:00:02',
        clientId: '01:02:00:00:00:00:02',
        name: 'n2',
        expiresAt: Date.UTC(2026, 10, 23, 22, 46, 14),
      },
    ]);
  });
  test.each<[string, string, string[]]>([
    ['nothing', '', []],
    ['a freed lease', block('10.0.0.2', 'active') + block('10.0.0.2', 'free'), []],
    ['a lease given again', block('10.0.0.2', 'free') + block('10.0.0.2', 'active'), ['10.0.0.2 02:00:00:00:00:02']],
    [
      'newest first',
      block('10.0.0.2', 'active') + block('10.0.0.3', 'active') + block('10.0.0.2', 'active'),
      ['10.0.0.2 02:00:00:00:00:02', '10.0.0.3 02:00:00:00:00:02'],
    ],
    [
      'strings that hold braces, quotes and semicolons',
      block('10.0.0.2', 'active', '  uid "\\377\\021\\"3D}{;\\\\";\n'),
      ['10.0.0.2 02:00:00:00:00:02'],
    ],
    [
      'nested blocks',
      block('10.0.0.2', 'active', '  on expiry { binding state free; }\n  set vendor = "x";\n'),
      ['10.0.0.2 02:00:00:00:00:02'],
    ],
    [
      'a block that is being written',
      block('10.0.0.2', 'active') + block('10.0.0.3', 'active').slice(0, 60),
      ['10.0.0.2 02:00:00:00:00:02'],
    ],
    ['an abandoned one', block('10.0.0.2', 'active', '  abandoned;\n'), []],
    [
      'other statements around',
      `authoring-byte-order little-endian;\nserver-duid "x";\n${block('10.0.0.2', 'active')}`,
      ['10.0.0.2 02:00:00:00:00:02'],
    ],
  ])('%s', (_, text, expected) => {
    expect(brief(parseDhcpdLeases(text))).toEqual(expected);
  });
  test.each([
    ['ends never;', Infinity],
    ['ends epoch 1795477620; # comment', 1795477620_000],
    ['ends yesterday;', 0],
  ])('%s', (statement, expected) => {
    expect(parseDhcpdLeases(`lease 10.0.0.2 { ${statement}\n }`)[0]?.expiresAt).toBe(expected);
  });
});

describe('neighbour tables', () => {
  test('/proc/net/arp', () => {
    expect(
      parseProcNetArp(`IP address       HW type     Flags       HW address            Mask     Device
10.197.31.31     0x1         0x2         52:54:00:0a:0b:0c     *        tshbr0
10.197.31.32     0x1         0x0         00:00:00:00:00:00     *        tshbr0
rubbish
`),
    ).toEqual([{ address: '10.197.31.31', mac: '52:54:00:0a:0b:0c', device: 'tshbr0' }]);
  });
  test('ip -j neigh', () => {
    expect(
      parseIpNeigh(
        JSON.stringify([
          { dst: '10.0.0.1', dev: 'br0', lladdr: '52:54:00:0a:0b:0c', state: ['STALE'] },
          { dst: '10.0.0.2', dev: 'br0', lladdr: '52:54:00:0a:0b:0d', state: ['FAILED'] },
          { dst: '10.0.0.3', dev: 'br0', state: ['INCOMPLETE'] },
          { dst: 'fe80::1', dev: 'br0', lladdr: '52:54:00:0a:0b:0c', state: ['REACHABLE'] },
          null,
        ]),
      ),
    ).toEqual([{ address: '10.0.0.1', mac: '52:54:00:0a:0b:0c', device: 'br0' }]);
    expect(parseIpNeigh('')).toEqual([]);
  });
  test('arp -an of macOS', () => {
    expect(
      parseArp(`? (192.168.64.7) at a:3:c5:0:9f:41 on bridge100 ifscope [bridge]
? (192.168.64.9) at (incomplete) on bridge100 ifscope [bridge]
? (224.0.0.251) at 1:0:5e:0:0:fb on en0 ifscope permanent [ethernet]
`),
    ).toEqual([
      { address: '192.168.64.7', mac: '0a:03:c5:00:9f:41', device: 'bridge100' },
      { address: '224.0.0.251', mac: '01:00:5e:00:00:fb', device: 'en0' },
    ]);
    expect(parseArp('')).toEqual([]);
  });
});
