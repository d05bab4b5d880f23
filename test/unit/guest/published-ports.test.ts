import { describe, expect, test } from 'vitest';

import { parseContainerPorts, parseNodePorts } from '../../../driver/guest/published-ports.js';

describe("Docker's list of containers", () => {
  const list = (...ports: unknown[]) => JSON.stringify([{ Id: 'a', Ports: ports }]);
  test.each([
    ['[]', []],
    ['[{"Ports":null},{"Ports":[]},{}]', []],
    [list({ PrivatePort: 80, Type: 'tcp' }), []],
    [list({ IP: '0.0.0.0', PrivatePort: 80, PublicPort: 8080, Type: 'tcp' }), [{ protocol: 'tcp', port: 8080 }]],
    [list({ IP: '::', PrivatePort: 53, PublicPort: 53, Type: 'udp' }), [{ protocol: 'udp', port: 53 }]],
    [list({ IP: '127.0.0.1', PrivatePort: 80, PublicPort: 8080, Type: 'tcp' }), []],
    [list({ IP: '::1', PrivatePort: 80, PublicPort: 8080, Type: 'tcp' }), []],
    [list({ IP: '0.0.0.0', PrivatePort: 80, PublicPort: 8080, Type: 'sctp' }), []],
  ])('%s', (text, ports) => {
    expect(parseContainerPorts(text)).toEqual(ports);
  });

  test.each(['', '{', '{}', '[1]', list({ PublicPort: 0, Type: 'tcp' }), list({ PublicPort: 70000, Type: 'tcp' })])(
    '%s is none',
    (text) => {
      expect(() => parseContainerPorts(text)).toThrow(/no list of containers/);
    },
  );
});

test.each([
  ['', []],
  ['-N KUBE-NODEPORTS', []],
  [
    '-N KUBE-NODEPORTS\n-A KUBE-NODEPORTS -p tcp -m comment --comment "default/web:http" -m tcp --dport 30080 -j KUBE-EXT-X\n',
    [{ protocol: 'tcp', port: 30080 }],
  ],
  ['-A KUBE-NODEPORTS -d 127.0.0.0/8 -p udp -m udp --dport 30053 -j KUBE-EXT-Y', [{ protocol: 'udp', port: 30053 }]],
  ['-A KUBE-NODEPORTS -p tcp -m tcp --dport 99999 -j X', []],
  ['-A KUBE-NODEPORTS -p tcp -m tcp --dport 0 -j X', []],
  ['-A OTHER -p tcp -m tcp --dport 80 -j X', []],
  ['iptables: No chain/target/match by that name.', []],
])("kube-proxy's rules %j", (text, ports) => {
  expect(parseNodePorts(text)).toEqual(ports);
});
