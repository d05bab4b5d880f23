import { describe, expect, test } from 'vitest';

import { type StoredConfig, configDefaults, mergeConfig, renderConfig } from '../../../driver/machine/config.js';
import { applyFlags, createFlags } from '../../../driver/machine/flags.js';
import { parseRecord } from '../../../driver/machine/record.js';
import { configFindings } from '../../../driver/machine/validate.js';

const fresh: StoredConfig = { config: { ...configDefaults }, unknown: new Map(), problems: [] };

describe('config JSON', () => {
  test('keys match without regard to case, null leaves a value alone, unknown keys survive', () => {
    const merged = mergeConfig(fresh, '{"machinename":"dev","CPU":4,"Memory":null,"Future":{"a":[1]}}');
    expect(merged.config).toMatchObject({ MachineName: 'dev', CPU: 4, Memory: 2048 });
    expect(JSON.parse(renderConfig(merged))).toMatchObject({ Future: { a: [1] }, SSHUser: 'docker' });
  });

  test('has every key of the BaseDriver', () => {
    const keys = Object.keys(JSON.parse(renderConfig(fresh)) as object);
    for (const key of [
      'IPAddress',
      'MachineName',
      'SSHUser',
      'SSHPort',
      'SSHKeyPath',
      'StorePath',
      'SwarmMaster',
      'SwarmHost',
      'SwarmDiscovery',
    ]) {
      expect(keys).toContain(key);
    }
  });

  test('a value of the wrong type is noted, not fatal: docker-machine ls would crash', () => {
    const merged = mergeConfig(fresh, '{"CPU":"two","DiskSize":1.5}');
    expect(merged.config.CPU).toBe(2);
    expect(merged.problems).toHaveLength(2);
    expect(merged.problems[0]).toContain('"CPU" must be a whole number');
  });

  test.each(['', '[]', 'null', '{', '"text"'])('%j is refused', (json) => {
    expect(() => mergeConfig(fresh, json)).toThrow(/JSON/);
  });

  test("minikube's number of extra disks becomes that many disks", () => {
    expect(mergeConfig(fresh, '{"DiskSize":5000,"ExtraDisks":2}').config.ExtraDisks).toEqual(['5000', '5000']);
  });
});

describe('create flags', () => {
  test('every flag has a name of ours, a usage and an environment variable', () => {
    for (const flag of createFlags) {
      expect(flag.name).toMatch(/^tshyve-[a-z0-9-]+$/);
      expect(flag.envVar).toMatch(/^TSHYVE_[A-Z0-9_]+$/);
      expect(flag.usage).not.toBe('');
      // rancher-machine takes such names for something else.
      expect(flag.name).not.toMatch(/user-?data|custom-data|cloud-config|-os$/);
    }
  });

  test('values of a client set the config', () => {
    const config = { ...configDefaults };
    applyFlags(
      config,
      new Map<string, string | number | string[] | null>([
        ['tshyve-cpus', 3],
        ['tshyve-extra-disk', ['100', '/disk.raw']],
        ['tshyve-cmdline', null],
        ['other-flag', 'x'],
      ]),
    );
    expect(config).toMatchObject({ CPU: 3, ExtraDisks: ['100', '/disk.raw'], Cmdline: '' });
  });

  test('a list that the client leaves out comes from the environment', () => {
    const env = { TSHYVE_EXTRA_DISK: '100,/disk.raw', TSHYVE_CPUS: '7' };
    const config = { ...configDefaults };
    applyFlags(config, new Map(), env);
    expect(config).toMatchObject({ ExtraDisks: ['100', '/disk.raw'], CPU: configDefaults.CPU });
    applyFlags(config, new Map([['tshyve-extra-disk', []]]), env);
    expect(config.ExtraDisks).toHaveLength(2);
    applyFlags(config, new Map([['tshyve-extra-disk', ['5']]]), env);
    expect(config.ExtraDisks).toEqual(['5']);
  });

  test('a wrong type is refused', () => {
    expect(() => applyFlags({ ...configDefaults }, new Map([['tshyve-cpus', 'x']]))).toThrow('--tshyve-cpus');
  });
});

describe('findings name the flag and the fix', () => {
  const valid = { ...configDefaults, MachineName: 'dev' };
  test('a good config has none', () => {
    expect(configFindings(valid)).toEqual([]);
  });
  test.each([
    [{ CPU: 0 }, '--tshyve-cpus is 0: give 1 to'],
    [{ CPU: 65 }, '--tshyve-cpus'],
    [{ Memory: 1 }, '--tshyve-memory'],
    [{ Memory: 1 << 30 }, '--tshyve-memory'],
    [{ DiskSize: 1 }, '--tshyve-disk-size'],
    [{ ImageSHA256: 'abc' }, '--tshyve-image-sha256'],
    [{ Hypervisor: 'xhyve' }, '--tshyve-hypervisor'],
    [{ Network: 'bridged' }, '--tshyve-network'],
    [{ Cmdline: 'a\nb' }, '--tshyve-cmdline'],
    [{ ExtraDisks: ['relative.img'] }, '--tshyve-extra-disk'],
    [{ Shares: ['relative'] }, '--tshyve-share'],
    [{ VSockPorts: ['ssh'] }, '--tshyve-vsock-port is "ssh"'],
    [{ VSockPorts: ['22', '4294967295'] }, '--tshyve-vsock-port is "4294967295"'],
    [{ VSockPorts: Array.from({ length: 65 }, (_, port) => String(port)) }, '--tshyve-vsock-port was given 65 times'],
    [{ Firmware: true, Cmdline: 'quiet' }, '--tshyve-firmware'],
    [{ Firmware: true, Rosetta: true }, '--tshyve-firmware'],
    [{ SSHUser: 'a b' }, '--tshyve-ssh-user'],
    [{ RequestedSSHPort: 70_000 }, '--tshyve-ssh-port'],
    [{ BootTimeout: 1 }, '--tshyve-boot-timeout'],
    [{ MachineName: '../x' }, 'machine name'],
  ])('%j', (change, words) => {
    const findings = configFindings({ ...valid, ...change });
    expect(findings).toHaveLength(1);
    expect(findings[0]).toContain(words);
  });
});

describe('tshyve.json', () => {
  const good = {
    version: 1,
    complete: true,
    mac: '02:00:00:00:00:01',
    uuid: '00000000-0000-8000-8000-000000000000',
    hostAddress: '127.64.0.1',
  };
  test('survives', () => {
    expect(parseRecord(JSON.stringify(good), 'r')).toEqual(good);
    const ports = [{ protocol: 'udp', hostPort: 5353, guestPort: 53 }];
    expect(parseRecord(JSON.stringify({ ...good, ports }), 'r')).toEqual({ ...good, ports });
  });
  test.each([
    ['{', 'not valid JSON'],
    ['[]', 'not a JSON object'],
    [JSON.stringify({ ...good, mac: 'x' }), '"mac"'],
    [JSON.stringify({ ...good, hostAddress: '8.8.8.8' }), '"hostAddress"'],
    [JSON.stringify({ ...good, version: 9 }), 'newer tshyve'],
    [JSON.stringify({ ...good, ports: [{ protocol: 'tcp', hostPort: 0, guestPort: 80 }] }), '"ports"'],
    [JSON.stringify({ ...good, ports: 80 }), '"ports"'],
  ])('%s is refused', (text, words) => {
    expect(() => parseRecord(text, 'tshyve.json')).toThrow(words);
  });
});
