import { type Server, connect } from 'node:net';

/** Listens on a unix socket that only its owner may connect to, from its first moment. */
export function listenPrivately(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const before = process.umask(0o177);
    server.once('error', reject);
    server.listen(path, () => {
      process.umask(before);
      resolve();
    });
  });
}

/** True when somebody listens on this unix socket; false for a stale or missing one. */
export function isServed(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => {
      resolve(false);
    });
  });
}
