import { type Server, type Socket, createServer } from 'node:net';

const GREETING = 49;
const COMMAND = 41;
const REPLY = 258;

/**
 * The server's side of VPNKit's ethernet protocol, as its documents describe it: 49 bytes of greeting each way, a
 * command of 41 bytes, a reply of 258, then frames behind a little-endian length of 2 bytes.
 */
export class VpnkitPeer {
  /** The uuid of each client so far. */
  readonly clients: string[] = [];
  readonly #mac: Buffer;
  readonly #onFrame: (frame: Buffer) => void;
  readonly #connections = new Set<Socket>();
  #server: Server | undefined;
  #current: Socket | undefined;

  constructor(mac: string, onFrame: (frame: Buffer) => void) {
    this.#mac = Buffer.from(mac.replaceAll(':', ''), 'hex');
    this.#onFrame = onFrame;
  }

  listen(path: string): Promise<void> {
    const server = createServer((socket) => {
      this.#connections.add(socket);
      socket.on('close', () => this.#connections.delete(socket));
      socket.on('error', () => undefined);
      this.#serve(socket);
    });
    this.#server = server;
    return new Promise((resolve) => server.listen(path, resolve));
  }

  send(frame: Buffer): void {
    const length = Buffer.alloc(2);
    length.writeUInt16LE(frame.length);
    this.#current?.write(Buffer.concat([length, frame]));
  }

  /** Ends as a killed process does: nothing listens, all connections break. */
  close(): Promise<void> {
    for (const socket of this.#connections) socket.destroy();
    return new Promise((resolve) => {
      if (this.#server === undefined) resolve();
      else this.#server.close(() => resolve());
    });
  }

  #serve(socket: Socket): void {
    let bytes = Buffer.alloc(0);
    let stage: 'greeting' | 'command' | 'frames' = 'greeting';
    const take = (count: number) => {
      const taken = bytes.subarray(0, count);
      bytes = bytes.subarray(count);
      return taken;
    };
    const step = (): boolean => {
      if (stage === 'greeting') {
        if (bytes.length < GREETING) return false;
        const greeting = take(GREETING);
        if (greeting.toString('latin1', 0, 5) !== 'VMN3T' || greeting.readUInt32LE(5) !== 22) socket.destroy();
        const answer = Buffer.alloc(GREETING, 'c');
        greeting.copy(answer, 0, 0, 9);
        socket.write(answer);
        stage = 'command';
        return true;
      }
      if (stage === 'command') {
        if (bytes.length < COMMAND) return false;
        const command = take(COMMAND);
        if (command[0] !== 1) socket.destroy();
        this.clients.push(command.toString('latin1', 1, 37));
        const reply = Buffer.alloc(REPLY);
        reply[0] = 1;
        reply.writeUInt16LE(1500, 1);
        reply.writeUInt16LE(1514, 3);
        this.#mac.copy(reply, 5);
        socket.write(reply);
        this.#current = socket;
        stage = 'frames';
        return true;
      }
      if (bytes.length < 2 || bytes.length < 2 + bytes.readUInt16LE(0)) return false;
      this.#onFrame(Buffer.from(take(2 + bytes.readUInt16LE(0)).subarray(2)));
      return true;
    };
    socket.on('data', (chunk) => {
      bytes = Buffer.concat([bytes, chunk]);
      while (step());
    });
  }
}
