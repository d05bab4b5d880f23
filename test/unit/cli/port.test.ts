import { execFileSync } from 'node:child_process';

import { describe, expect, test } from 'vitest';

import { completionScript } from '../../../driver/cli/completion.js';
import { parseHostPort, parseMapping } from '../../../driver/cli/port.js';
import { buildProgram } from '../../../driver/cli/program.js';

describe('ports on the command line', () => {
  test.each([
    ['80', { protocol: 'tcp', hostPort: 80, guestPort: 80 }],
    ['8080:80', { protocol: 'tcp', hostPort: 8080, guestPort: 80 }],
    ['8080:80/tcp', { protocol: 'tcp', hostPort: 8080, guestPort: 80 }],
    ['5353:53/udp', { protocol: 'udp', hostPort: 5353, guestPort: 53 }],
  ])('%s is a mapping', (text, mapping) => {
    expect(parseMapping(text)).toEqual(mapping);
  });

  test.each(['', '0', '0:80', '80:0', '65536', '80/sctp', '127.0.0.1:80:80', '-1', '80:80:80', 'http', '80/'])(
    '"%s" is none',
    (text) => {
      expect(() => parseMapping(text)).toThrow(/is no port: give \[HOST:\]GUEST/);
    },
  );

  test.each([
    ['8080', { protocol: 'tcp', hostPort: 8080 }],
    ['53/udp', { protocol: 'udp', hostPort: 53 }],
  ])('%s is a port of the host', (text, port) => {
    expect(parseHostPort(text)).toEqual(port);
  });

  test.each(['8080:80', '0', 'x', '1/icmp'])('"%s" is not', (text) => {
    expect(() => parseHostPort(text)).toThrow(/is no port of the host/);
  });
});

test('bash completes the sub-commands of a group, and machines behind them', () => {
  const script = completionScript('bash', buildProgram('0.0.0').commands);
  const complete = (...words: string[]) =>
    execFileSync(
      'bash',
      [
        '-c',
        `tshyve() { echo dev; }; ${script}\nCOMP_WORDS=(tshyve "$@"); COMP_CWORD=$#; _tshyve; echo "\${COMPREPLY[*]}"`,
        'bash',
        ...words,
      ],
      { encoding: 'utf8' },
    ).trim();
  expect(complete('port', '')).toBe('ls add rm');
  expect(complete('network', 'in')).toBe('inspect');
  expect(complete('port', 'add', '')).toBe('dev');
  expect(complete('network', 'down', '')).toBe('');
  expect(complete('stop', 'd')).toBe('dev');
});
