import { once } from 'node:events';
import { type AddressInfo, type Server, type Socket, connect, createServer } from 'node:net';

import ssh2 from 'ssh2';
import { afterEach, expect, test } from 'vitest';

import { type GuestAddress, contactGuest, createKeyPair } from '../../../driver/guest/index.js';

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

/** What a client knows of a guest that nobody has met yet. */
function guestAt(port: number): GuestAddress {
  const { privateKey } = createKeyPair('client');
  return { host: '127.0.0.1', port, username: 'docker', privateKey, hostKey: undefined };
}

test('an attempt in which nothing was heard ends when the guest says that sshd is up', async () => {
  const sshPort = await sshServer();
  const networkUp = new AbortController();
  const sshUp = new AbortController();
  const silent: Socket[] = [];
  // As a port forwarder does: the first connection is accepted, long before there is a guest behind it.
  const port = await listening(
    createServer((socket) => {
      socket.on('error', () => undefined);
      closers.push(() => socket.destroy());
      if (silent.length === 0) {
        silent.push(socket);
        sshUp.abort();
        return;
      }
      const through = connect({ host: '127.0.0.1', port: sshPort });
      through.on('error', () => undefined);
      socket.pipe(through).pipe(socket);
    }),
  );
  // Shorter than the time an attempt is given: without the hint this would fail.
  const guest = { networkUp: networkUp.signal, sshUp: sshUp.signal };
  const options = { timeoutMs: 1500, signal: new AbortController().signal, guest };
  const session = await contactGuest(guestAt(port), options);
  expect(session.hostKey).not.toBe('');
  session.close();
});

test('an attempt that began when the network was up is not given up when sshd is', async () => {
  const sshPort = await sshServer();
  const networkUp = new AbortController();
  const sshUp = new AbortController();
  networkUp.abort();
  let connections = 0;
  // A slow guest: sshd has taken the connection, and says so before its banner comes.
  const port = await listening(
    createServer((socket) => {
      socket.on('error', () => undefined);
      closers.push(() => socket.destroy());
      connections++;
      sshUp.abort();
      setTimeout(() => {
        const through = connect({ host: '127.0.0.1', port: sshPort });
        through.on('error', () => undefined);
        socket.pipe(through).pipe(socket);
      }, 200);
    }),
  );
  const guest = { networkUp: networkUp.signal, sshUp: sshUp.signal };
  const session = await contactGuest(guestAt(port), { timeoutMs: 5000, signal: new AbortController().signal, guest });
  expect(connections).toBe(1);
  session.close();
});

test('whoever has given up already is not connected any more', async () => {
  let connections = 0;
  const port = await listening(
    createServer((socket) => {
      connections++;
      socket.destroy();
    }),
  );
  const options = { timeoutMs: 1000, signal: AbortSignal.abort() };
  await expect(contactGuest(guestAt(port), options)).rejects.toThrow('Waiting for SSH was cancelled.');
  expect(connections).toBe(0);
});
