import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { expect, test } from 'vitest';

import { parseNetworkChoice } from '../../../driver/machine/network-choice.js';
import { requirePeer } from '../../../driver/machine/socket-choice.js';

const at = (hostAddress: string, hostPort: number) => ({ hostAddress, hostPort });

test.each([
  ['user', { mode: 'user' }],
  ['user:lab', { mode: 'user', network: 'lab' }],
  ['shared', { mode: 'shared', network: 'shared' }],
  ['nat', { mode: 'nat' }],
  ['bridged:en0', { mode: 'bridged', interface: 'en0' }],
  ['shared:lab-2', { mode: 'shared', network: 'lab-2' }],
  ['socket:stream:/run/s', { mode: 'socket', framing: 'stream', path: '/run/s' }],
  ['socket:socket_vmnet:/var/run/s', { mode: 'socket', framing: 'stream', path: '/var/run/s' }],
  ['socket:datagram:/run/a,b:c', { mode: 'socket', framing: 'datagram', path: '/run/a,b:c' }],
  [
    'socket:passt:/tmp/p,ssh=127.0.0.1:2222',
    { mode: 'socket', framing: 'stream', path: '/tmp/p', ssh: at('127.0.0.1', 2222), docker: at('127.0.0.1', 2376) },
  ],
  [
    'socket:vpnkit:/tmp/v,docker=127.0.0.3:9,ssh=127.0.0.2:22',
    { mode: 'socket', framing: 'vpnkit', path: '/tmp/v', ssh: at('127.0.0.2', 22), docker: at('127.0.0.3', 9) },
  ],
])('%s', (text, expected) => {
  expect(parseNetworkChoice(text)).toEqual(expected);
});

test.each([
  '',
  'bridged',
  'bridged:',
  'bridged:a b',
  'bridged:../x',
  'shared:',
  'shared:../x',
  'shared:UP',
  'User',
  'user:',
  'user:a/b',
  'user:a,b',
])('%j is refused with the choices', (text) => {
  expect(() => parseNetworkChoice(text)).toThrow('--tshyve-network is "' + text + '": give user, shared');
});

test.each([
  ['socket:', /"" is no kind of socket. Write socket:KIND:PATH.*KIND one of stream, datagram, .*vpnkit/],
  ['socket:tcp:/x', /"tcp" is no kind/],
  ['socket:toString:/x', /"toString" is no kind/],
  ['socket:stream', /give the absolute path/],
  ['socket:stream:relative', /give the absolute path/],
  [`socket:stream:/${'x'.repeat(103)}`, /at most 103 bytes/],
  ['socket:passt:/p', /Let it forward a port to the guest's port 22, and say which, as ",ssh=127.0.0.1:2222"/],
  ['socket:gvproxy:/p,docker=127.0.0.1:1', /forwarder\/expose/],
  ['socket:passt:/p,ssh=localhost:22', /"ssh=localhost:22" is no IPv4 address and port/],
  ['socket:passt:/p,ssh=127.0.0.1:70000', /no IPv4 address and port/],
  ['socket:passt:/p,ssh=127.0.0.1:1,ssh=127.0.0.1:2', /given twice/],
])('%j is refused with the fix', (text, message) => {
  expect(() => parseNetworkChoice(text)).toThrow(message);
});

test('a peer has to be a socket', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'tsp-'));
  const peer = (name: string) => ({ mode: 'socket', framing: 'stream', path: join(folder, name) }) as const;
  const server = createServer();
  try {
    await new Promise<void>((resolve) => server.listen(join(folder, 'socket'), resolve));
    await requirePeer(peer('socket'));
    writeFileSync(join(folder, 'file'), '');
    await expect(requirePeer(peer('file'))).rejects.toThrow(/is not a unix socket. Start the network program/);
    await expect(requirePeer(peer('none'))).rejects.toMatchObject({ kind: 'precondition' });
  } finally {
    server.close();
    rmSync(folder, { recursive: true });
  }
});
