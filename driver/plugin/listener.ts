import { type AddressInfo, type Server, type Socket, createServer } from 'node:net';

/**
 * A listener on loopback that is up before the code behind it is loaded: the client is told the address first, and
 * connections that come meanwhile wait.
 */
export class Listener {
  readonly #server: Server;
  readonly #waiting: Socket[] = [];
  #accept: ((socket: Socket) => void) | undefined;

  constructor() {
    this.#server = createServer((socket) => {
      // A socket without this would end the process when its client vanishes.
      socket.on('error', () => undefined);
      if (this.#accept === undefined) this.#waiting.push(socket);
      else this.#accept(socket);
    });
  }

  /** @returns the address line for the client, e.g. `127.0.0.1:34567` */
  listen(): Promise<string> {
    return new Promise((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen({ host: '127.0.0.1', port: 0 }, () => {
        resolve(`127.0.0.1:${String((this.#server.address() as AddressInfo).port)}`);
      });
    });
  }

  /** Hands over all connections, those that wait first. */
  serve(accept: (socket: Socket) => void): void {
    this.#accept = accept;
    for (const socket of this.#waiting.splice(0)) accept(socket);
  }

  /** Takes no more connections. */
  close(): void {
    this.#server.close();
  }
}
