import { describe, expect, test } from 'vitest';

import { type Lease, belongsTo, chooseCandidates } from '../../../../driver/network/leases/index.js';

const NOW = Date.UTC(2026, 10, 24);
const HOUR = 3_600_000;
const OURS = '02:00:00:00:00:01';
const OTHER = '02:00:00:00:00:99';

function lease(fields: Partial<Lease> = {}): Lease {
  return {
    address: '10.0.0.5',
    mac: OURS,
    clientId: `01:${OURS}`,
    name: 'dev',
    expiresAt: NOW + HOUR,
    ...fields,
  };
}
const choose = (leases: Lease[], before: Lease[] = [], onNetwork?: (address: string) => boolean) =>
  chooseCandidates(leases, { mac: OURS, before, now: NOW, ...(onNetwork === undefined ? {} : { onNetwork }) }).map(
    ({ address, evidence }) => `${address} ${evidence}`,
  );

const duidLlt = 'ff:11:22:33:44:00:01:00:01:2a:aa:aa:aa:02:00:00:00:00:01';
const duidLl = 'ff:11:22:33:44:00:03:00:01:02:00:00:00:00:01';
const duidEn = 'ff:8c:01:22:07:00:02:00:00:ab:11:05:ee:90:41:07:3b:c2:de';

describe('whose lease it is', () => {
  test.each<[string, Partial<Lease>, boolean]>([
    ['our MAC', { clientId: undefined }, true],
    ['our MAC, a DUID for client identifier', { clientId: duidEn }, true],
    ['only a client identifier of our MAC', { mac: undefined }, true],
    ['a DUID-LLT with our MAC', { mac: undefined, clientId: duidLlt }, true],
    ['a DUID-LL with our MAC', { mac: undefined, clientId: duidLl }, true],
    ['a DUID-EN, which carries no MAC', { mac: undefined, clientId: duidEn }, false],
    ['another MAC', { mac: OTHER, clientId: `01:${OTHER}` }, false],
    ['another MAC that claims our client identifier', { mac: OTHER }, false],
    ['nothing but our name', { mac: undefined, clientId: undefined }, false],
  ])('%s', (_, fields, expected) => {
    expect(belongsTo(lease(fields), OURS)).toBe(expected);
  });
});

describe('stale leases are never taken for the address', () => {
  const fresh = lease({ address: '10.0.0.6', expiresAt: NOW + 2 * HOUR });
  test.each<[string, Lease[], Lease[], string[]]>([
    ['no lease at all', [], [], []],
    ['given after the start', [lease()], [], ['10.0.0.5 fresh']],
    ['renewed after the start', [lease({ expiresAt: NOW + 2 * HOUR })], [lease()], ['10.0.0.5 fresh']],
    ['of an older boot', [lease()], [lease()], ['10.0.0.5 unchanged']],
    ['of an older boot, then a new one', [lease(), fresh], [lease()], ['10.0.0.6 fresh', '10.0.0.5 unchanged']],
    ['expired', [lease({ expiresAt: NOW - 1 })], [], []],
    ['expired this moment', [lease({ expiresAt: NOW })], [], []],
    ['released (ends now)', [lease({ expiresAt: NOW - HOUR })], [lease()], []],
    ['of a former machine of this name', [lease({ mac: OTHER, clientId: `01:${OTHER}` })], [], []],
    ['of this name without any identifier', [lease({ mac: undefined, clientId: undefined })], [], []],
    [
      'unlimited, from before',
      [lease({ expiresAt: Infinity })],
      [lease({ expiresAt: Infinity })],
      ['10.0.0.5 unchanged'],
    ],
    ['unlimited, new', [lease({ expiresAt: Infinity })], [], ['10.0.0.5 fresh']],
    ['two of one MAC: the longer one is the later one', [lease(), fresh], [], ['10.0.0.6 fresh', '10.0.0.5 fresh']],
    [
      'two of one MAC and one expiry: the order of the file',
      [lease(), lease({ address: '10.0.0.9' })],
      [],
      ['10.0.0.5 fresh', '10.0.0.9 fresh'],
    ],
    ['one address twice', [lease(), lease({ clientId: duidLlt })], [], ['10.0.0.5 fresh']],
    [
      'an address that somebody else got later',
      [lease({ mac: OTHER, clientId: undefined, expiresAt: NOW + 2 * HOUR }), lease()],
      [],
      [],
    ],
    [
      'an address that somebody else had earlier',
      [lease({ mac: OTHER, clientId: undefined, expiresAt: NOW + 1 }), lease()],
      [],
      ['10.0.0.5 fresh'],
    ],
    [
      'the same MAC in the store of another client identifier',
      [lease({ clientId: duidEn, expiresAt: NOW + 2 * HOUR }), lease()],
      [lease()],
      ['10.0.0.5 fresh'],
    ],
    ['a whole file of leftovers', [1, 2, 3].map((n) => lease({ address: `10.0.0.${String(n)}`, mac: OTHER })), [], []],
  ])('%s', (_, leases, before, expected) => {
    expect(choose(leases, before)).toEqual(expected);
  });

  test('of another network', () => {
    const leases = [lease({ address: '192.168.105.4' }), lease()];
    expect(choose(leases, [], (address) => address.startsWith('10.'))).toEqual(['10.0.0.5 fresh']);
  });
});
