import { expect, test } from 'vitest';

import { parseVsockPorts, requireSocketRoom } from '../../../driver/machine/vsock-ports.js';

test('ports are distinct numbers of 32 bits, but the one that means any', () => {
  expect(parseVsockPorts([])).toEqual([]);
  expect(parseVsockPorts(['22', '4294967294', '0', '022'])).toEqual([22, 4_294_967_294, 0]);
  for (const wrong of ['', '-1', '1.5', '0x10', ' 22', '4294967295', '99999999999', '22,23']) {
    expect(() => parseVsockPorts([wrong])).toThrow(`--tshyve-vsock-port is "${wrong}": give a port`);
  }
});

test('a folder whose sockets would have too long a path is named, with the fix', () => {
  requireSocketRoom('/home/user/.docker/machine/machines/dev/vsock');
  expect(() => {
    requireSocketRoom(`/home/user/.docker/machine/machines/${'n'.repeat(60)}/vsock`);
  }).toThrow(/too long .*\/vsock\.sock_4294967294.*shorter name/);
});
