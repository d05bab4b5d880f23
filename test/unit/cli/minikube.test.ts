import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';

import type { Context } from '../../../driver/cli/context.js';
import { installMinikube } from '../../../driver/cli/minikube-install.js';

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

describe('the minikube with our driver', () => {
  const root = mkdtempSync(join(tmpdir(), 'tshyve-install-'));
  const [bin, home] = [join(root, 'bin'), join(root, 'home')];
  const built = join(root, 'built');
  let said: string[] = [];
  const context = { operation: { log: { info: (line: string) => said.push(line), debug: () => undefined } } };
  const install = (options: { from?: string; to?: string } = {}) =>
    installMinikube(context as unknown as Context, { from: built, ...options });
  /** Answers as minikube does when it is asked for its version. */
  const program = (path: string, answer: string) => {
    writeFileSync(path, `#!/bin/sh\ncat <<'E'\n${answer}\nE\n`);
    chmodSync(path, 0o755);
  };
  const ours = (version: string) => `{"commit":"tshyve","minikubeVersion":"v${version}"}`;

  beforeEach(() => {
    said = [];
    mkdirSync(bin, { recursive: true });
    program(built, ours('1.38.1'));
    program(join(bin, 'minikube'), '{"commit":"c93a4cb","minikubeVersion":"v1.37.0"}');
    vi.stubEnv('PATH', `${bin}:/usr/bin:/bin`);
    vi.stubEnv('HOME', home);
    vi.spyOn(process.stdout, 'write').mockReturnValue(true);
  });
  afterEach(() => {
    vi.unstubAllEnvs();
    vi.restoreAllMocks();
    rmSync(root, { recursive: true, force: true });
  });

  test('goes beside the one on the PATH, which stays', async () => {
    const before = readFileSync(join(bin, 'minikube'));
    await install();
    expect(readFileSync(join(bin, 'minikube-tshyve'))).toEqual(readFileSync(built));
    expect(statSync(join(bin, 'minikube-tshyve')).mode & 0o777).toBe(0o755);
    expect(readFileSync(join(bin, 'minikube'))).toEqual(before);
    expect(readdirSync(bin).sort()).toEqual(['minikube', 'minikube-tshyve']);
    expect(said.join('\n')).toContain('minikube 1.38.1 with the driver tshyve');
    expect(said.join('\n')).not.toContain('not on the PATH');
  });

  test('goes to the user where there is no minikube', async () => {
    rmSync(join(bin, 'minikube'));
    await install();
    expect(existsSync(join(home, '.local/bin/minikube-tshyve'))).toBe(true);
    expect(said.join('\n')).toContain('is not on the PATH yet');
  });

  test('replaces an older one of its kind, and may be repeated', async () => {
    program(join(bin, 'minikube-tshyve'), ours('1.36.0'));
    await install();
    await install();
    expect(readFileSync(join(bin, 'minikube-tshyve'))).toEqual(readFileSync(built));
    await install({ from: join(bin, 'minikube-tshyve') });
    expect(said.at(-1)).toContain('already');
  });

  test.each([
    ['a program that is something else', 'hello'],
    ['a minikube without our driver', '{"commit":"c93a4cb","minikubeVersion":"v1.37.0"}'],
  ])('neither takes nor replaces %s', async (_, answer) => {
    const other = join(bin, 'minikube-tshyve');
    program(other, answer);
    const before = readFileSync(other);
    await expect(install()).rejects.toMatchObject({ kind: 'already-exists' });
    expect(readFileSync(other)).toEqual(before);
    await expect(install({ from: other, to: home })).rejects.toMatchObject({ kind: 'precondition' });
    expect(existsSync(home)).toBe(false);
  });

  test('says what is missing, and leaves nothing half-made', async () => {
    await expect(install({ from: join(root, 'nothing') })).rejects.toMatchObject({ kind: 'not-found' });
    writeFileSync(home, 'a file');
    await expect(install({ to: join(home, 'bin') })).rejects.toThrow(/Cannot install/);
    await expect(install({ to: bin })).resolves.toBeUndefined();
    expect(readdirSync(bin).sort()).toEqual(['minikube', 'minikube-tshyve']);
  });
});
