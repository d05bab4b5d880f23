import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { type ServiceError, credentials } from '@grpc/grpc-js';
import { afterAll, describe, expect, test } from 'vitest';

import { HealthCheckResponse_ServingStatus, HealthClient } from '../../driver/grpc/generated/health.js';
import { type Event, SupervisorClient } from '../../driver/supervisor/generated/supervisor.js';
import { World, cannotRun, image, inTheLab, within } from './world.js';

describe.skipIf(cannotRun)('the tshyve command', () => {
  const world = new World();
  const shared = mkdtempSync(join(tmpdir(), 'tsh-'));
  // For the guest's user as well, who is nobody here.
  chmodSync(shared, 0o755);
  writeFileSync(join(shared, 'from host'), 'hello\n');
  afterAll(async () => {
    await world.close();
    rmSync(shared, { recursive: true });
  });
  const { tshyveOk } = { tshyveOk: (...args: string[]) => world.tshyveOk(...args) };

  const help = () => execFileSync(join(world.bin, 'tshyve'), ['--help'], { encoding: 'utf8' });
  const commands = () => {
    const [, section = ''] = help().split('Commands:');
    return [...section.matchAll(/^ {2}(\w+) (?:\[|<| {2})/gm)]
      .map((match) => match[1] ?? '')
      .filter((name) => name !== 'help');
  };

  test('every sub-command has a help with an example', async () => {
    expect(commands()).toEqual(
      expect.arrayContaining(['create', 'start', 'stop', 'restart', 'kill', 'upgrade', 'provision', 'rm', 'ls']),
    );
    expect(help()).toContain('Exit codes: 0 done');
    for (const command of commands()) {
      expect(await tshyveOk(command, '--help'), command).toMatch(/^Examples?:\n {2}\S+/m);
    }
  });

  test.each([
    [['no-such-command'], 2],
    [['ls', '--no-such-option'], 2],
    [['create', 'x', '--cpus', 'two'], 2],
    [['create', '../x'], 2],
    [['rm', '-f', '../x'], 2],
    [['env', 'x', '--shell', 'tcsh'], 2],
    [['completion', 'tcsh'], 2],
    [['start', 'nobody'], 3],
    [['rm', 'nobody'], 3],
    [['rm', '-f', 'nobody'], 0],
  ])('%j ends with %i and a sentence', async (args, code) => {
    const result = await world.tshyve(args);
    expect(result).toMatchObject({ code });
    if (code !== 0) expect(result.err).toMatch(/^tshyve: \S+/m);
  });

  test.each(['bash', 'zsh', 'fish'])('the completion for %s names all sub-commands', async (shell) => {
    const script = await tshyveOk('completion', shell);
    for (const command of commands()) expect(script).toContain(command);
  });

  test('bash completes sub-commands, options and nothing else', () => {
    const complete = (...words: string[]) =>
      execFileSync(
        'bash',
        [
          '-c',
          `source <(tshyve completion bash); COMP_WORDS=(tshyve "$@"); COMP_CWORD=$#; _tshyve; echo "\${COMPREPLY[*]}"`,
          'bash',
          ...words,
        ],
        { env: world.env, encoding: 'utf8' },
      ).trim();
    expect(complete('sta')).toBe('start status');
    expect(complete('create', '--cp')).toBe('--cpus');
    expect(complete('stop', '')).toBe('');
  });

  const badSettings: Record<string, string> = {
    TSHYVE_CPUS: '0',
    TSHYVE_MEMORY: '1',
    TSHYVE_DISK_SIZE: '1',
    TSHYVE_IMAGE_SHA256: 'abc',
    TSHYVE_HYPERVISOR: 'xhyve',
    TSHYVE_NETWORK: 'bridged',
    TSHYVE_CMDLINE: 'a\nb',
    TSHYVE_EXTRA_DISK: 'relative.img',
    TSHYVE_SHARE: '/etc',
    TSHYVE_SSH_USER: 'a b',
    TSHYVE_SSH_PORT: '70000',
    TSHYVE_BOOT_TIMEOUT: '1',
  };
  const flagOf = (name: string) => `--${name.toLowerCase().replaceAll('_', '-')}`;

  test('every setting can come from the environment and is checked before anything is made', async () => {
    const { err, code } = await world.tshyve(['create', 'bad'], badSettings);
    expect(code).toBe(2);
    for (const name of Object.keys(badSettings)) expect(err).toContain(flagOf(name));
    const other = await world.tshyve(['create', 'bad'], { TSHYVE_IMAGE_URL: 'ftp://x/y.iso' });
    expect(other).toMatchObject({ code: 2 });
    expect((await world.tshyve(['create', 'bad'], { TSHYVE_CPUS: 'two' })).err).toContain('TSHYVE_CPUS needs');
    expect(existsSync(world.machineFolder('bad'))).toBe(false);
  });

  test('docker-machine reads the same variables', async () => {
    Object.assign(world.env, badSettings);
    try {
      const { err, code } = await world.machine('create', '-d', 'tshyve', 'bad');
      expect(code).not.toBe(0);
      for (const name of Object.keys(badSettings)) expect(err).toContain(flagOf(name));
    } finally {
      Object.assign(world.env, Object.fromEntries(Object.keys(badSettings).map((name) => [name, undefined])));
    }
    expect(existsSync(world.machineFolder('bad'))).toBe(false);
  });

  test('Ctrl-C during create takes everything back', async () => {
    const child = spawn(join(world.bin, 'tshyve'), ['-s', world.store, 'create', 'c', '--memory', '512'], {
      env: world.env,
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let said = '';
    child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
    const exited = once(child, 'exit');
    await expect.poll(() => said, { timeout: within(60_000) }).toContain('Waiting for SSH');
    child.kill('SIGINT');
    const [code] = (await exited) as [number | null];
    expect(code, said).toBe(130);
    expect(said).toContain('Removing what was made');
    await world.expectGone('c');
  });

  let sshPort = 0;
  test('create with all settings from the environment; a second create is refused at once', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    sshPort = (server.address() as AddressInfo).port;
    server.close();
    const settings: NodeJS.ProcessEnv = {
      TSHYVE_CPUS: '1',
      TSHYVE_MEMORY: '600',
      TSHYVE_DISK_SIZE: '3000',
      TSHYVE_IMAGE_URL: `file://${image}`,
      TSHYVE_IMAGE_SHA256: createHash('sha256').update(readFileSync(image)).digest('hex'),
      TSHYVE_HYPERVISOR: inTheLab ? 'native' : 'qemu',
      TSHYVE_NETWORK: 'user',
      TSHYVE_CMDLINE: 'tshyve.test=1',
      TSHYVE_EXTRA_DISK: '64',
      TSHYVE_SHARE: `${shared}:/home/docker/in here:ro,${shared}:/srv/out`,
      TSHYVE_SSH_USER: 'docker',
      TSHYVE_SSH_PORT: String(sshPort),
      TSHYVE_BOOT_TIMEOUT: '400',
      // What a plugin or a shell may have in its environment must not reach what lives on.
      MACHINE_PLUGIN_TOKEN: '42',
      MACHINE_PLUGIN_DRIVER_NAME: 'tshyve',
      NODE_OPTIONS: '--max-old-space-size=700',
    };
    const first = world.tshyve(['create', 't'], settings);
    await expect.poll(() => existsSync(world.machineFolder('t')), { timeout: within(60_000) }).toBe(true);
    expect(await world.tshyve(['create', 't'])).toMatchObject({ code: 4 });
    const result = await first;
    expect(result.code, result.err).toBe(0);
    expect(result.err).toMatch(/Machine "t" is ready after [\d.]+ s: Docker 20\.10/);
    const guest = await tshyveOk('ssh', 't', 'nproc; cat /proc/cmdline; lsblk -bdno SIZE; grep MemTotal /proc/meminfo');
    expect(guest).toMatch(/^1\n.*tshyve\.test=1/);
    expect(guest).toContain(String(3000 * 2 ** 20));
    expect(guest).toContain(String(64 << 20));
    expect(Number(/MemTotal: +(\d+)/.exec(guest)?.[1])).toBeLessThan(600 << 10);
  });

  test('folders of the host are there, and read-only ones even for root', async () => {
    const script = [
      "cat '/home/docker/in here/from host'",
      'sudo sh -c "echo of the guest >/srv/out/from-guest"',
      "sudo mount -o remount,rw '/home/docker/in here' && ! sudo touch '/home/docker/in here/x' 2>&1",
      'grep -c " virtiofs " /proc/mounts',
    ];
    const said = await tshyveOk('ssh', 't', script.join(' && '));
    // One below the home directory shows on the data disk as well.
    expect(said).toMatch(/^hello\n.*Read-only file system\n3$/);
    expect(readFileSync(join(shared, 'from-guest'), 'utf8')).toBe('of the guest\n');
    expect(await world.tshyve(['suspend', 't'])).toMatchObject({ code: 7, err: /cannot be suspended/ });
    expect(await tshyveOk('status', 't')).toBe('running');
  });

  test('nothing of the plugin contract or of Node reaches the supervisor or QEMU', () => {
    const { supervisorPid, vmPid } = world.status();
    expect(vmPid > 0).toBe(!inTheLab);
    for (const pid of inTheLab ? [supervisorPid] : [supervisorPid, vmPid]) {
      const environment = readFileSync(`/proc/${String(pid)}/environ`, 'utf8');
      expect(environment).toContain(world.folder);
      expect(environment).not.toMatch(/MACHINE_PLUGIN_|NODE_OPTIONS|NODE_EXTRA_CA_CERTS/);
    }
  });

  test('what it tells', async () => {
    const ip = await tshyveOk('ip', 't');
    const url = await tshyveOk('url', 't');
    expect(url).toMatch(new RegExp(`^tcp://${ip.replaceAll('.', '\\.')}:\\d+$`));
    expect(await tshyveOk('status', 't')).toBe('running');
    expect(JSON.parse(await tshyveOk('inspect', 't'))).toMatchObject({ CPU: 1, SSHPort: sshPort, IPAddress: ip });
    expect(await tshyveOk('ls')).toMatch(/^NAME +STATE +URL +ERRORS\nt +running +tcp:/);
    expect(await tshyveOk('ls', '-q')).toBe('t');
    expect(JSON.parse(await tshyveOk('ls', '--json'))).toEqual([{ name: 't', state: 'running', url, error: '' }]);
    for (const shell of ['bash', 'zsh', 'sh']) {
      expect(await tshyveOk('env', '--shell', shell, 't')).toContain(`export DOCKER_HOST=${url}`);
    }
    expect(await tshyveOk('env', '--shell', 'fish', 't')).toContain(`set -gx DOCKER_HOST ${url};`);
    expect(await tshyveOk('env', '-u', '--shell', 'sh', 't')).toContain('unset DOCKER_HOST');
    expect(await tshyveOk('logs', '-n', '1000', 't')).toContain('tshyve-event: ssh');
    expect(await tshyveOk('logs', '--supervisor', 't')).toMatch(/event ssh/);
    expect((await world.tshyve(['ssh', 't', 'exit 7'])).code).toBe(7);
    expect((await world.machine('status', 't')).out).toBe('Running');
  });

  test('certificates are renewed by provision', async () => {
    const certificate = () => readFileSync(join(world.machineFolder('t'), 'server.pem'), 'utf8');
    const before = certificate();
    await tshyveOk('provision', 't');
    expect(certificate()).not.toBe(before);
  });

  function clients() {
    const [id = ''] = readdirSync(world.runFolder).filter((name) => /^[0-9a-f]{16}$/.test(name));
    const address = `unix:${join(world.runFolder, id, 'vmm.sock')}`;
    return {
      health: new HealthClient(address, credentials.createInsecure()),
      supervisor: new SupervisorClient(address, credentials.createInsecure()),
    };
  }

  test('the supervisor serves health, status and all milestones over gRPC', async () => {
    const { health, supervisor } = clients();
    try {
      const answer = await new Promise((resolve, reject) => {
        health.check({ service: '' }, (error: ServiceError | null, response) => {
          if (error === null) resolve(response);
          else reject(error);
        });
      });
      expect(answer).toEqual({ status: HealthCheckResponse_ServingStatus.SERVING });
      const events: string[] = [];
      const stream = supervisor.watchEvents({});
      stream.on('data', (event: Event) => events.push(event.name));
      stream.on('error', () => undefined);
      await expect
        .poll(() => events)
        .toEqual(expect.arrayContaining(['launched', 'init', 'userspace', 'disk', 'ssh', 'docker']));
      stream.cancel();
    } finally {
      health.close();
      supervisor.close();
    }
  });

  test('a guest that floods its console with milestones is passed over', async () => {
    const log = join(world.machineFolder('t'), 'vmm.log');
    const lines = () => readFileSync(log, 'utf8').split('\n').length;
    const before = lines();
    const flood = 'i=0; while [ $i -lt 3000 ]; do echo; echo tshyve-event: init; i=$((i+1)); done >/dev/console';
    await tshyveOk('ssh', 't', `sudo sh -c '${flood}'`);
    await expect.poll(lines, { timeout: within(20_000) }).toBeGreaterThan(before);
    // 120 a minute, however long the flood took.
    expect(lines() - before).toBeLessThan(500);
    expect(await tshyveOk('status', 't')).toBe('running');
    expect(statSync(join(world.runFolder, readRunId(), 'status.json')).size).toBeLessThan(20_000);
  });

  function readRunId(): string {
    return readdirSync(world.runFolder).find((name) => /^[0-9a-f]{16}$/.test(name)) ?? '';
  }

  test('a client with another idea of the run folder finds the machine', async () => {
    const elsewhere = { TSHYVE_RUN_DIR: join(world.folder, 'elsewhere') };
    expect((await world.tshyve(['ls'], elsewhere)).out).toMatch(/^t +running +tcp:/m);
    expect((await world.tshyve(['ssh', 't', 'echo here'], elsewhere)).out).toBe('here');
  });

  test('every command can be repeated', async () => {
    await tshyveOk('start', 't');
    await tshyveOk('stop', 't');
    await tshyveOk('stop', 't');
    await tshyveOk('kill', 't');
    expect(await world.tshyve(['url', 't'])).toMatchObject({ code: 5, err: 'tshyve: Host is not running' });
    expect(await world.tshyve(['ssh', 't', 'true'])).toMatchObject({ code: 5 });
    await tshyveOk('upgrade', 't');
    await tshyveOk('upgrade', 't');
    expect(await tshyveOk('status', 't')).toBe('stopped');
  });

  test('the console log is rotated while the machine runs', async () => {
    const log = join(world.machineFolder('t'), 'console.log');
    const limit = 4 << 20;
    truncateSync(log, limit - 100);
    appendFileSync(log, 'the end of the old log\n');
    await tshyveOk('start', 't');
    expect(readFileSync(`${log}.1`, 'latin1')).toContain('the end of the old log');
    expect(statSync(`${log}.1`).size).toBeLessThanOrEqual(limit);
    // SSH may answer before the guest has said so.
    // ... and a line may be cut in two where the old log was full.
    const whole = () => readFileSync(`${log}.1`, 'latin1').slice(-200) + readFileSync(log, 'latin1');
    await expect.poll(whole).toContain('tshyve-event: ssh');
    expect(statSync(log).size).toBeGreaterThan(0);
    expect(statSync(log).mode & 0o777).toBe(0o600);
  });

  test('many clients at once do not harm each other', async () => {
    const results = await Promise.all([
      world.tshyve(['restart', 't']),
      world.machine('stop', 't'),
      world.tshyve(['start', 't']),
      world.machine('kill', 't'),
      world.tshyve(['start', 't']),
      world.tshyve(['ls']),
    ]);
    // Busy is an answer as well: the others may take longer than one is willing to wait.
    for (const { code, err, out } of results)
      expect(code === 0 || /busy|working on this machine|already (stopped|running)/.test(err + out), err).toBe(true);
    await tshyveOk('start', 't');
    // ls would also wait for Docker, which has just begun to start.
    expect(await world.ok('status', 't')).toBe('Running');
    const hypervisor = inTheLab ? 'tshyve-vmm' : 'qemu-system';
    expect(world.processes().filter((line) => line.includes(hypervisor))).toHaveLength(1);
    expect(await tshyveOk('ssh', 't', 'mountpoint -q /var/lib/docker && echo kept')).toBe('kept');
    expect(await tshyveOk('ssh', 't', 'cat /srv/out/from-guest')).toBe('of the guest');
  });

  test('rm while others wait leaves nothing', async () => {
    await Promise.all([
      world.tshyve(['restart', 't']),
      world.tshyve(['rm', 't']),
      world.tshyve(['stop', 't']),
      world.tshyve(['rm', '-f', 't']),
    ]);
    expect((await world.tshyve(['rm', '-f', 't'])).code).toBe(0);
    expect((await world.tshyve(['rm', '-f', 't'])).code).toBe(0);
    expect((await world.tshyve(['rm', 't'])).code).toBe(3);
    await world.expectGone('t');
  });
});
