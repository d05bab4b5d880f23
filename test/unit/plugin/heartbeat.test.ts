import { afterEach, beforeEach, expect, test } from 'vitest';

import { Listener, PluginServer } from '../../../driver/plugin/index.js';

const limitMs = 200;
let server: PluginServer;
let begun = 0;
let endedAfter: number | undefined;

beforeEach(async () => {
  const listener = new Listener();
  await listener.listen();
  endedAfter = undefined;
  begun = performance.now();
  server = new PluginServer(listener, {
    loadDriver: () => Promise.reject(new Error('not needed')),
    info: () => undefined,
    debug: () => undefined,
    heartbeatTimeoutMs: limitMs,
  });
  void server.ended.then(() => (endedAfter = performance.now() - begun));
});
afterEach(async () => {
  server.shutDown(0, 'the test is over');
  await server.ended;
});

test('a server without heartbeats ends', async () => {
  expect(await server.ended).toBe(1);
  expect(endedAfter).toBeGreaterThan(limitMs - 10);
});

test('a server that was stopped meanwhile reads first what the client has sent', async () => {
  const blockedMs = 2 * limitMs;
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, blockedMs);
  expect(await server.ended).toBe(1);
  expect(endedAfter).toBeGreaterThan(blockedMs + limitMs - 10);
});
