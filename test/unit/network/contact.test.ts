import { type AddressInfo, type Socket, createServer } from 'node:net';

import { expect, test } from 'vitest';

import { contact } from '../../../driver/network/index.js';

async function server(serve: (socket: Socket) => void): Promise<{ port: number; close: () => void }> {
  const sockets = new Set<Socket>();
  const listener = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    serve(socket);
  });
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const close = () => {
    for (const socket of sockets) socket.destroy();
    listener.close();
  };
  return { port: (listener.address() as AddressInfo).port, close };
}

test.each<[string, (socket: Socket) => void, object]>([
  ['a server that speaks first', (socket) => socket.write('SSH-2.0-x'), { answered: true }],
  ['one that says nothing', () => undefined, { answered: false, code: 'ETIMEDOUT' }],
  ['one that hangs up', (socket) => socket.end(), { answered: false, code: 'ECONNRESET' }],
])('%s', async (_, serve, expected) => {
  const { port, close } = await server(serve);
  try {
    expect(await contact('127.0.0.1', port, 300)).toEqual(expected);
  } finally {
    close();
  }
});

test('a port where nobody listens', async () => {
  const { port, close } = await server(() => undefined);
  close();
  expect(await contact('127.0.0.1', port, 1000)).toEqual({ answered: false, code: 'ECONNREFUSED' });
});

test('ends when it is told to', async () => {
  const { port, close } = await server(() => undefined);
  const controller = new AbortController();
  const looking = contact('127.0.0.1', port, 60_000, controller.signal);
  controller.abort();
  expect(await looking).toEqual({ answered: false, code: 'ABORTED' });
  expect(await contact('127.0.0.1', port, 60_000, controller.signal)).toEqual({ answered: false, code: 'ABORTED' });
  close();
});
