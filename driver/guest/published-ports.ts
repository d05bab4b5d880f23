import { type IncomingMessage, request } from 'node:http';

import * as v from 'valibot';

import { TshyveError, messageOf, sleep } from '../base/index.js';
import type { GuestSession } from './ssh-session.js';

const DOCKER_SOCKET = '/var/run/docker.sock';
/** Docker publishes before it says `start`; a container that ends says `die`. */
const EVENTS = `/events?filters=${encodeURIComponent(JSON.stringify({ type: ['container'], event: ['start', 'die'] }))}`;
/** Events come in swarms when compositions start and end. */
const SETTLE_MS = 100;
const MAX_LIST_BYTES = 8 << 20;
/** kube-proxy leads NodePorts to services in this chain (its iptables mode); nobody listens at them. */
const CHAIN = 'KUBE-NODEPORTS';
/** Tells each change of a rule, without asking; ends with this session, which it would not notice by itself. */
const MONITOR = 'sudo -n stdbuf -oL xtables-monitor --event 2>/dev/null & cat >/dev/null; sudo -n kill $! 2>/dev/null';

/** A port that the guest offers to the world beyond it. */
export interface PublishedPort {
  readonly protocol: 'tcp' | 'udp';
  readonly port: number;
}

/**
 * Tells which ports containers and Kubernetes' NodePorts publish in a guest, now and after each change. Docker is asked over
 * its socket, through the session, so no program has to run in the guest for it.
 * @param onPorts is awaited before the next change is told
 * @returns false at once when Docker does not run; true when it, or the session, has ended
 * @throws TshyveError `guest` when the session breaks, `cancelled`
 */
export async function watchPublishedPorts(
  session: GuestSession,
  onPorts: (ports: readonly PublishedPort[]) => Promise<void>,
  signal: AbortSignal,
): Promise<boolean> {
  // Asking a Docker that is stopped would start it (socket activation).
  if ((await session.execute('pidof dockerd')).code !== 0) return false;
  const over = new AbortController();
  const until = AbortSignal.any([signal, over.signal]);
  const changes = new Signal();
  const changed = () => {
    changes.set();
  };
  const monitor = session.lines(MONITOR, until, (line) => {
    if (line.includes(CHAIN)) changed();
  });
  // A guest without it has no NodePorts to be told of.
  monitor.catch(() => undefined);
  try {
    const events = await ask(session, EVENTS, until);
    events.on('data', changed);
    events.on('close', changed);
    events.on('error', changed);
    for (;;) {
      if (events.closed || !session.isOpen) return true;
      await sleep(SETTLE_MS, signal);
      await onPorts([...(await containerPorts(session, until)), ...(await nodePorts(session))]);
      await changes.wait();
    }
  } finally {
    over.abort();
  }
}

/** Something happened since it was last waited for. */
class Signal {
  #isSet = false;
  #wake: () => void = () => undefined;

  set(): void {
    this.#isSet = true;
    this.#wake();
  }

  async wait(): Promise<void> {
    if (!this.#isSet) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    this.#isSet = false;
  }
}

async function containerPorts(session: GuestSession, signal: AbortSignal): Promise<PublishedPort[]> {
  const response = await ask(session, '/containers/json', signal);
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response) {
    size += (chunk as Buffer).length;
    if (size > MAX_LIST_BYTES) throw new TshyveError('guest', "The list of the guest's containers is too long.");
    chunks.push(chunk as Buffer);
  }
  return parseContainerPorts(Buffer.concat(chunks).toString('utf8'));
}

async function nodePorts(session: GuestSession): Promise<PublishedPort[]> {
  return parseNodePorts((await session.execute(`sudo -n iptables -w -t nat -S ${CHAIN}`)).stdout);
}

const portNumber = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(65_535));
const containersSchema = v.array(
  v.object({
    Ports: v.nullish(
      v.array(v.object({ IP: v.optional(v.string()), PublicPort: v.optional(portNumber), Type: v.string() })),
    ),
  }),
);

/**
 * Reads Docker's list of containers (Docker Engine API, ContainerList). What is published to the guest's own loopback
 * stays there.
 * @throws TshyveError `guest` when it is none
 */
export function parseContainerPorts(text: string): PublishedPort[] {
  const parsed = v.safeParse(v.pipe(v.string(), v.parseJson(), containersSchema), text);
  if (!parsed.success) throw new TshyveError('guest', 'Docker in the guest answers with no list of containers.');
  return parsed.output.flatMap(({ Ports }) =>
    (Ports ?? []).flatMap(({ IP = '', PublicPort, Type }) => {
      const isLocal = IP.startsWith('127.') || IP === '::1';
      if (PublicPort === undefined || isLocal || (Type !== 'tcp' && Type !== 'udp')) return [];
      return [{ protocol: Type, port: PublicPort } as const];
    }),
  );
}

/** Reads the rules of kube-proxy's chain as `iptables -S` prints them. */
export function parseNodePorts(text: string): PublishedPort[] {
  return text.split('\n').flatMap((line) => {
    const [, protocol, port] =
      /^-A KUBE-NODEPORTS (?:.* )?-p (tcp|udp) (?:.* )?--dport (\d{1,5})(?: |$)/.exec(line) ?? [];
    const number = Number(port);
    if ((protocol !== 'tcp' && protocol !== 'udp') || !(number >= 1 && number <= 65_535)) return [];
    return [{ protocol, port: number } as const];
  });
}

/** Asks the guest's Docker. @throws TshyveError `guest` */
async function ask(session: GuestSession, path: string, signal: AbortSignal): Promise<IncomingMessage> {
  const channel = await session.openSocket(DOCKER_SOCKET);
  return new Promise<IncomingMessage>((resolve, reject) => {
    const fail = (what: string, cause?: unknown) => {
      channel.destroy();
      reject(new TshyveError('guest', `Docker in the guest does not answer: ${what}.`, { cause }));
    };
    const call = request({ createConnection: () => channel, path, headers: { host: 'docker' }, signal }, (response) => {
      if (response.statusCode === 200) resolve(response);
      else fail(`status ${String(response.statusCode)}`);
    });
    call.on('error', (error) => {
      fail(messageOf(error), error);
    });
    call.end();
  });
}
