import { describe, expect, test } from 'vitest';

import { parseDetachedAnswer } from '../../../driver/base/index.js';
import {
  type LaunchRequest,
  type SupervisorStatus,
  parseLastExit,
  parseLaunchRequest,
  parseStatus,
} from '../../../driver/supervisor/types.js';

const status: SupervisorStatus = {
  state: 'running',
  hostAddress: '127.64.0.1',
  forwards: [{ name: 'ssh', guestPort: 22, hostAddress: '127.64.0.1', hostPort: 2222, protocol: 'tcp' }],
  hypervisor: 'auto',
  accelerator: 'tcg',
  supervisorPid: 10,
  vmPid: 11,
  startedAtMs: 1,
  problem: '',
  events: [{ name: 'init', argument: '', atMs: 5 }],
};
const request: LaunchRequest = {
  machineDirectory: '/store/machines/dev',
  id: '0123456789abcdef',
  hypervisor: 'auto',
  spec: {
    name: 'dev',
    uuid: '00000000-0000-8000-8000-000000000000',
    cpus: 1,
    memoryMiB: 512,
    boot: { kernel: '/k', initrd: '/i', commandLine: 'quiet' },
    disks: [{ id: 'data', path: '/d', readOnly: false }],
    network: {
      mode: 'user',
      mac: '02:00:00:00:00:01',
      hostname: 'dev',
      hostAddress: '127.64.0.1',
      forwards: [{ name: 'ssh', guestPort: 22, hostPorts: [22, 0] }],
    },
  },
};

describe('what another process wrote is parsed, not believed', () => {
  test('whole texts survive', () => {
    expect(parseStatus(JSON.stringify(status))).toEqual(status);
    expect(parseLaunchRequest(JSON.stringify(request))).toEqual(request);
    expect(parseDetachedAnswer('{"ready":true}\n')).toEqual({ ready: true });
    const failure = { error: { kind: 'no-space', message: 'full' } };
    expect(parseDetachedAnswer(JSON.stringify(failure))).toEqual(failure);
    expect(parseLastExit('{"reason":"crashed","detail":"QEMU ended.","at":"2026"}')).toBe('QEMU ended.');
  });

  test('a text cut off at any byte is none', () => {
    for (const [parse, text] of [
      [parseStatus, JSON.stringify(status)],
      [parseLaunchRequest, JSON.stringify(request)],
      [parseDetachedAnswer, '{"ready":true}'],
      [parseLastExit, '{"detail":"x"}'],
    ] as const) {
      for (let end = 0; end < text.length; end++) expect(parse(text.slice(0, end))).toBeUndefined();
    }
  });

  test.each([
    { ...status, state: 'excellent' },
    { ...status, vmPid: -1 },
    { ...status, vmPid: '1; reboot' },
    { ...status, forwards: [{ name: 'ssh', guestPort: 22, hostAddress: '127.64.0.1', hostPort: 70_000 }] },
    { ...status, events: 'many' },
    [],
    null,
  ])('a status like %j is none', (value) => {
    expect(parseStatus(JSON.stringify(value))).toBeUndefined();
  });

  test.each([
    { ...request, id: '../../etc' },
    { ...request, machineDirectory: 'relative' },
    { ...request, spec: { ...request.spec, cpus: 0 } },
    { ...request, spec: { ...request.spec, disks: [{ id: 'data' }] } },
  ])('a request like %j is none', (value) => {
    expect(parseLaunchRequest(JSON.stringify(value))).toBeUndefined();
  });

  test('an answer with an unknown kind is none', () => {
    expect(parseDetachedAnswer('{"error":{"kind":"exotic","message":"x"}}')).toBeUndefined();
  });
});
