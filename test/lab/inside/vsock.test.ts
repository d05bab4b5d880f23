import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { type Socket, createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';

import { afterEach, beforeEach, expect, test } from 'vitest';

import { withGuest } from './guest.js';
import './lab.js';

const PORT = 4000;
let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vsock-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

test('host and guest reach each other by vsock, much at a time', async () => {
  const directory = join(folder, 'v');
  const options = { vsock: { directory, ports: [PORT] }, words: `lab.task=vsock lab.port=${String(PORT)}` };
  await withGuest('native', { kernel: 'cloud-6.1', ...options }, async (guest) => {
    await guest.waitFor(/vsock listens/);
    // What the guest connects to need not be there when it starts.
    const server = createServer({ pauseOnConnect: true }).listen(join(directory, `vsock.sock_${String(PORT)}`));
    const called = once(server, 'connection') as Promise<[Socket]>;
    const client = createConnection(join(directory, `00000003.${PORT.toString(16).padStart(8, '0')}`));
    const sent = randomBytes(1 << 20);
    const echoed = buffer(client);
    client.end(sent);
    expect((await echoed).equals(sent)).toBe(true);
    const [socket] = await called;
    expect((await buffer(socket)).toString()).toBe('of the guest\n');
    expect(await guest.end(), guest.console + guest.said).toBe(0);
    server.close();
  });
  expect(readdirSync(directory).filter((name) => !name.startsWith('vsock.sock_'))).toEqual([]);
});
