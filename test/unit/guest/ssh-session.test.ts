import { once } from 'node:events';
import { type AddressInfo, type Server, type Socket, connect, createServer } from 'node:net';

import ssh2 from 'ssh2';
import { afterEach, expect, test } from 'vitest';

import { contactGuest, createKeyPair } from '../../../driver/guest/index.js';

const closers: (() => void)[] = [];
afterEach(() => {
  for (const close of closers.splice(0)) close();
});

async function listening(server: Server | ssh2.Server): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  closers.push(() => server.close());
  return (server.address() as AddressInfo).port;
}

/** An SSH server that lets everybody in. */
function sshServer(): Promise<number> {
  const server = new ssh2.Server({ hostKeys: [createKeyPair('host').privateKey] }, (client) => {
    client.on('authentication', (context) => {
      context.accept();
    });
    client.on('error', () => undefined);
  });
  return listening(server);
}

test('an attempt in which nothing was heard ends when the guest says that sshd is up', async () => {
  const sshPort = await sshServer();
  const hurry = new AbortController();
  const silent: Socket[] = [];
  // As a port forwarder does: the first connection is accepted, long before there is a guest behind it.
  const port = await listening(
    createServer((socket) => {
      socket.on('error', () => undefined);
      closers.push(() => socket.destroy());
      if (silent.length === 0) {
        silent.push(socket);
        hurry.abort();
        return;
      }
      const through = connect({ host: '127.0.0.1', port: sshPort });
      through.on('error', () => undefined);
      socket.pipe(through).pipe(socket);
    }),
  );
  const address = {
    host: '127.0.0.1',
    port,
    username: 'docker',
    privateKey: createKeyPair('client').privateKey,
    hostKey: undefined,
  };
  // Shorter than the time an attempt is given: without the hint this would fail.
  const options = { timeoutMs: 1500, signal: new AbortController().signal, hurry: hurry.signal };
  const session = await contactGuest(address, options);
  expect(session.hostKey).not.toBe('');
  session.close();
});
