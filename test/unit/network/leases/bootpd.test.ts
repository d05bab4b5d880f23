import { describe, expect, test } from 'vitest';

import { parseBootpdLeases } from '../../../../driver/network/leases/index.js';

const MAC = '0a:03:c5:00:9f:41';
const SHORT = '1,a:3:c5:0:9f:41';
/** A block as bootpd writes it; entries may be replaced, added or (undefined) left out. */
function block(fields: Record<string, string | undefined> = {}): string {
  const all: Record<string, string | undefined> = {
    name: 'dev-a',
    ip_address: '192.168.64.7',
    hw_address: SHORT,
    identifier: SHORT,
    lease: '0x69a3f0c1',
    ...fields,
  };
  const lines = Object.entries(all).flatMap(([key, value]) => (value === undefined ? [] : [`\t${key}=${value}`]));
  return `{\n${lines.join('\n')}\n}\n`;
}
const lease = {
  address: '192.168.64.7',
  mac: MAC,
  clientId: `01:${MAC}`,
  name: 'dev-a',
  expiresAt: 0x69a3f0c1 * 1000,
};

describe('one block', () => {
  test.each<[string, string, object[]]>([
    ['as bootpd writes it', block(), [lease]],
    ['a MAC with all its zeros', block({ hw_address: `1,${MAC}`, identifier: `1,${MAC}` }), [lease]],
    ['capital digits', block({ hw_address: SHORT.toUpperCase() }), [lease]],
    ['no identifier', block({ identifier: undefined }), [lease]],
    ['no name', block({ name: undefined }), [{ ...lease, name: undefined }]],
    ['an empty name', block({ name: '' }), [{ ...lease, name: '' }]],
    ['a name with "="', block({ name: 'a=b' }), [{ ...lease, name: 'a=b' }]],
    ['a name that looks like a brace', block({ name: '}' }), [{ ...lease, name: '}' }]],
    ['a name with control characters made dots', block({ name: 'a.b' }), [{ ...lease, name: 'a.b' }]],
    ['a key nobody knows', block({ frobnicated: 'yes' }), [lease]],
    ['a key without a value', block().replace('\tlease', '\tflag\n\tlease'), [lease]],
    ['spaces for tabs', block().replaceAll('\t', '    '), [lease]],
    ['carriage returns', block().replaceAll('\n', '\r\n'), [lease]],
    ['the name last, as when it is learnt later', block({ name: undefined }).replace('}', '\tname=dev-a\n}'), [lease]],
    ['a lease that never ends', block({ lease: '0xffffffffffffffff' }), [{ ...lease, expiresAt: Infinity }]],
    ['-1 of 32 bits is a date', block({ lease: '0xffffffff' }), [{ ...lease, expiresAt: 0xffffffff * 1000 }]],
    ['hex without 0x', block({ lease: '69a3f0c1' }), [lease]],
    ['a lease of zero', block({ lease: '0x0' }), [{ ...lease, expiresAt: 0 }]],
    ['no lease', block({ lease: undefined }), [{ ...lease, expiresAt: 0 }]],
    ['a lease that is no number', block({ lease: 'soon' }), [{ ...lease, expiresAt: 0 }]],
    ['a lease of 17 digits', block({ lease: '0x10000000000000000' }), [{ ...lease, expiresAt: 0 }]],
    ['an address in conflict', block({ declined: SHORT, identifier: undefined }), []],
    ['no address', block({ ip_address: undefined }), []],
    ['an address that is none', block({ ip_address: '192.168.64.700' }), []],
    ['an IPv6 address', block({ ip_address: 'fe80::1' }), []],
    [
      'an octet too many',
      block({ hw_address: `${SHORT}:1`, identifier: `${SHORT}:1` }),
      [{ ...lease, mac: undefined, clientId: `01:${MAC}:01` }],
    ],
    [
      'an octet too large',
      block({ hw_address: '1,a:3:c5:0:9f:141', identifier: undefined }),
      [{ ...lease, mac: undefined, clientId: undefined }],
    ],
    ['no hardware address', block({ hw_address: undefined }), [{ ...lease, mac: undefined }]],
    [
      'hardware that is not Ethernet',
      block({ hw_address: '6,a:3:c5:0:9f:41', identifier: undefined }),
      [{ ...lease, mac: undefined, clientId: `06:${MAC}` }],
    ],
    ['the identifier before the rest', block().replace('{\n', `{\n\tidentifier=${SHORT}\n`), [lease]],
    [
      'a field twice: the last counts',
      block().replace('}', '\tip_address=192.168.64.9\n}'),
      [{ ...lease, address: '192.168.64.9' }],
    ],
    [
      'a key in capitals is another key',
      block({ ip_address: undefined }).replace('}', '\tIP_ADDRESS=192.168.64.7\n}'),
      [],
    ],
    ['spaces around the value', block({ ip_address: ' 192.168.64.7 ' }), []],
    ['an address with a leading zero', block({ ip_address: '192.168.064.7' }), []],
    ['an address with a port', block({ ip_address: '192.168.64.7:22' }), []],
    ['a lease in capitals', block({ lease: '0x69A3F0C1' }), [lease]],
    ['a negative lease', block({ lease: '-1' }), [{ ...lease, expiresAt: 0 }]],
    ['an empty lease', block({ lease: '' }), [{ ...lease, expiresAt: 0 }]],
    ['-2, which no server writes', block({ lease: '0xfffffffffffffffe' }), [{ ...lease, expiresAt: Infinity }]],
    ['the last second of 63 bits', block({ lease: '0x7fffffffffffffff' }), [{ ...lease, expiresAt: 2 ** 63 * 1000 }]],
    [
      'an identifier that claims a MAC, beside the real hardware address',
      block({ hw_address: '1,a:3:c5:0:9f:42' }),
      [{ ...lease, mac: '0a:03:c5:00:9f:42' }],
    ],
    ['a trailing colon', block({ hw_address: `${SHORT}:`, identifier: SHORT }), [{ ...lease, mac: undefined }]],
    [
      'the trap of xhyve: zero as the last octet',
      block({ hw_address: '1,a:3:c5:0:9f:0', identifier: '1,a:3:c5:0:9f:0' }),
      [{ ...lease, mac: '0a:03:c5:00:9f:00', clientId: '01:0a:03:c5:00:9f:00' }],
    ],
    [
      'a type without octets',
      block({ hw_address: '1,', identifier: '1,' }),
      [{ ...lease, mac: undefined, clientId: undefined }],
    ],
    [
      'a text identifier (type 0)',
      block({ hw_address: SHORT, identifier: '0,64:65:76' }),
      [{ ...lease, clientId: '00:64:65:76' }],
    ],
    ['a declined address that has a new identifier', block({ declined: '1,2:0:0:0:0:1' }), []],
    ['a name of a thousand letters', block({ name: 'n'.repeat(1000) }), [{ ...lease, name: 'n'.repeat(1000) }]],
    [
      'a name that is an assignment of an address',
      block({ name: 'ip_address=10.0.0.1' }),
      [{ ...lease, name: 'ip_address=10.0.0.1' }],
    ],
    [
      'a DUID, which hides the MAC',
      block({
        hw_address: 'ff,8c:1:22:7:0:2:0:0:ab:11:5:ee:90:41:7:3b:c2:de',
        identifier: 'ff,8c:1:22:7:0:2:0:0:ab:11:5:ee:90:41:7:3b:c2:de',
      }),
      [{ ...lease, mac: undefined, clientId: 'ff:8c:01:22:07:00:02:00:00:ab:11:05:ee:90:41:07:3b:c2:de' }],
    ],
  ])('%s', (_, text, expected) => {
    expect(parseBootpdLeases(text)).toEqual(expected);
  });
});

describe('the file', () => {
  const second = block({ ip_address: '192.168.64.8', name: 'dev-b' });
  test.each<[string, string, string[]]>([
    ['empty', '', []],
    ['blank lines', '\n\n\n', []],
    ['two blocks, in the order of the file', block() + second, ['192.168.64.7', '192.168.64.8']],
    ['blank lines between blocks', `\n${block()}\n\n${second}\n`, ['192.168.64.7', '192.168.64.8']],
    ['no line feed at the end', block().trimEnd(), ['192.168.64.7']],
    ['a field before any block', `\tname=x\n${block()}`, ['192.168.64.7']],
    ['a closing brace too many', `}\n${block()}`, ['192.168.64.7']],
    ['an opening brace too many', `{\n${block()}`, ['192.168.64.7']],
    ['a block cut short', block() + second.slice(0, 40), ['192.168.64.7']],
    ['a block cut short before the next', second.slice(0, 40) + block(), ['192.168.64.7']],
    [
      'a conflict between two good ones',
      block() + block({ declined: SHORT }) + second,
      ['192.168.64.7', '192.168.64.8'],
    ],
    ['one machine on two subnets', block() + block({ ip_address: '192.168.105.4' }), ['192.168.64.7', '192.168.105.4']],
    ['a zero byte inside', `${block()}\0${second}`, ['192.168.64.7', '192.168.64.8'].slice(0, 1)],
    ['binary rubbish', '\u0000\u0001{{{}}}\u00ff', []],
    [
      'a whole pool of 253',
      Array.from({ length: 253 }, (_, i) => block({ ip_address: `10.0.0.${String(i + 2)}` })).join(''),
      Array.from({ length: 253 }, (_, i) => `10.0.0.${String(i + 2)}`),
    ],
  ])('%s', (_, text, addresses) => {
    expect(parseBootpdLeases(text).map(({ address }) => address)).toEqual(addresses);
  });

  test('cut at any byte it gives no address that the whole does not hold', () => {
    const whole = block() + second;
    const known = new Set(['192.168.64.7', '192.168.64.8']);
    for (let length = 0; length < whole.length; length++) {
      for (const { address } of parseBootpdLeases(whole.slice(0, length))) expect(known).toContain(address);
    }
  });
});
