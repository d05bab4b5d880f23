import { lstat } from 'node:fs/promises';
import { isIPv4 } from 'node:net';

import { TshyveError, checkSocketPath, codeOf, messageOf } from '../base/index.js';
import type { SocketFraming } from '../hypervisor/index.js';

/** Where the host reaches a service of a machine whose own address it cannot reach. */
export interface Endpoint {
  readonly hostAddress: string;
  readonly hostPort: number;
}

/** `--tshyve-network socket:…`: the machine's interface ends at a unix socket of another program. */
export interface SocketChoice {
  readonly mode: 'socket';
  readonly framing: SocketFraming;
  readonly path: string;
  /** Left out: at the machine's own address. */
  readonly ssh?: Endpoint;
  readonly docker?: Endpoint;
}

/** How the flag is written. */
export const socketSyntax = 'socket:KIND:PATH[,ssh=ADDRESS:PORT][,docker=ADDRESS:PORT]';

interface Kind {
  readonly framing: SocketFraming;
  /** The host itself reaches the addresses of guests behind such a peer. Otherwise the peer has to forward ports. */
  readonly reachable: boolean;
  /** What makes the peer forward a port. */
  readonly forwarding: string;
}

/** What a peer may be: the three framings, and programs by name. */
const kinds: Readonly<Record<string, Kind>> = {
  stream: { framing: 'stream', reachable: true, forwarding: '' },
  datagram: { framing: 'datagram', reachable: true, forwarding: '' },
  socket_vmnet: { framing: 'stream', reachable: true, forwarding: '' },
  passt: { framing: 'stream', reachable: false, forwarding: '"passt -t 127.0.0.1/2222:22" forwards port 2222' },
  gvproxy: {
    framing: 'datagram',
    reachable: false,
    forwarding: "a POST to /services/forwarder/expose at the socket of gvproxy's -services forwards it",
  },
  vpnkit: { framing: 'vpnkit', reachable: false, forwarding: 'VPNKit forwards ports through its --port socket' },
};

const DOCKER_PORT = 2376;

/**
 * Parses the value of `--tshyve-network` when it begins with `socket:`.
 * @throws TshyveError `usage` that names the flag, what is wrong and how it is written
 */
export function parseSocketChoice(text: string): SocketChoice {
  const bad = (what: string) => new TshyveError('usage', `--tshyve-network is "${text}": ${what}.`);
  const [, name = '', path = '', options = ''] = /^socket:([^:]*):?(.*?)((?:,(?:ssh|docker)=[^,]*)*)$/.exec(text) ?? [];
  const kind = Object.hasOwn(kinds, name) ? kinds[name] : undefined;
  if (kind === undefined) {
    throw bad(`"${name}" is no kind of socket. Write ${socketSyntax}, KIND one of ${Object.keys(kinds).join(', ')}`);
  }
  if (!path.startsWith('/')) throw bad(`give the absolute path of the peer's unix socket, as ${socketSyntax}`);
  try {
    checkSocketPath(path);
  } catch {
    throw bad('the path of a unix socket has at most 103 bytes. Let the peer listen at a shorter one');
  }
  const endpoints = new Map<string, Endpoint>();
  for (const option of options.split(',').filter((word) => word !== '')) {
    const [service = '', value = ''] = option.split('=');
    const endpoint = parseEndpoint(value);
    if (endpoint === undefined) throw bad(`"${option}" is no IPv4 address and port. Write ${service}=127.0.0.1:2222`);
    if (endpoints.has(service)) throw bad(`${service}= is given twice`);
    endpoints.set(service, endpoint);
  }
  const ssh = endpoints.get('ssh');
  if (ssh === undefined && !kind.reachable) {
    throw bad(
      `the host cannot reach a guest behind ${name} at the guest's own address. Let it forward a port to the guest's port 22, and say which, as ",ssh=127.0.0.1:2222" at the end (${kind.forwarding})`,
    );
  }
  const docker =
    endpoints.get('docker') ??
    (ssh === undefined ? undefined : { hostAddress: ssh.hostAddress, hostPort: DOCKER_PORT });
  return {
    mode: 'socket',
    framing: kind.framing,
    path,
    ...(ssh === undefined ? {} : { ssh }),
    ...(docker === undefined ? {} : { docker }),
  };
}

function parseEndpoint(text: string): Endpoint | undefined {
  const [, hostAddress = '', digits = ''] = /^([\d.]+):(\d{1,5})$/.exec(text) ?? [];
  const hostPort = Number(digits);
  return isIPv4(hostAddress) && hostPort >= 1 && hostPort <= 65_535 ? { hostAddress, hostPort } : undefined;
}

/**
 * Checks that there is a socket. It is not connected to: a peer that serves one client might take that for its end.
 * @throws TshyveError `precondition` that says what is at the path
 */
export async function requirePeer({ path }: SocketChoice): Promise<void> {
  const fix =
    'Start the network program (passt, gvproxy, VPNKit, socket_vmnet) with that socket, or correct --tshyve-network.';
  let status;
  try {
    status = await lstat(path);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') throw new TshyveError('precondition', `There is no socket ${path}. ${fix}`);
    throw new TshyveError('precondition', `The socket ${path} cannot be used: ${messageOf(error)}. ${fix}`, {
      cause: error,
    });
  }
  if (!status.isSocket()) throw new TshyveError('precondition', `${path} is not a unix socket. ${fix}`);
}
