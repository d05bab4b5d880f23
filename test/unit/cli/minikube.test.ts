import { describe, expect, test } from 'vitest';

import { minikubeFlags } from '../../../driver/cli/minikube-args.js';
import { plannedCommands } from '../../../driver/cli/minikube-start.js';

describe('a stock minikube', () => {
  test('is given the machine by the flags of its ssh driver', () => {
    const access = { host: '127.64.0.2', port: 2222, user: 'docker', key: '/home/a b/id_ed25519' };
    expect(minikubeFlags('dev', access)).toEqual([
      '--profile=dev',
      '--driver=ssh',
      '--ssh-ip-address=127.64.0.2',
      '--ssh-port=2222',
      '--ssh-user=docker',
      '--ssh-key=/home/a b/id_ed25519',
    ]);
  });

  test.each([
    ['create', 'tshyve create dev --cmdline tshyve.identity=buildroot\n'],
    ['start', 'tshyve start dev\n'],
    ['none', ''],
  ] as const)('a dry run of a machine to %s shows the commands', (need, first) => {
    const second = "minikube start $(tshyve minikube args dev) --no-kubernetes '--memory=2 g'\n";
    expect(plannedCommands('dev', need, ['--no-kubernetes', '--memory=2 g'])).toBe(first + second);
  });
});
