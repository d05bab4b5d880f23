import { TshyveError, codeOf, messageOf } from '../../base/index.js';
import type { NetworkSpec, PortForward, PortForwardSpec } from '../vm-spec.js';
import type { NativeMachine } from './addon.js';

/** The one network interface that VmSpec has. */
const NIC = 0;

/**
 * Adds the port forwards of a machine. The core itself binds, so nobody can take a port between a test and its use; a
 * port that is taken leads to the next candidate.
 * @throws TshyveError `precondition` that names the ports when none can be bound
 */
export async function addForwards(machine: NativeMachine, network: NetworkSpec): Promise<PortForward[]> {
  // Elsewhere the machine has an address of its own.
  if (network.mode !== 'user') return [];
  const forwards: PortForward[] = [];
  for (const spec of network.forwards) forwards.push(await addForward(machine, network.hostAddress, spec));
  return forwards;
}

async function addForward(machine: NativeMachine, hostAddress: string, spec: PortForwardSpec): Promise<PortForward> {
  const { name, guestPort } = spec;
  let refusal: unknown;
  for (const candidate of spec.hostPorts) {
    try {
      const hostPort = await machine.addForward(NIC, { hostAddress, hostPort: candidate, guestPort, udp: false });
      return { name, guestPort, hostAddress, hostPort };
    } catch (error) {
      if (codeOf(error) === 'invalid-argument' || codeOf(error) === 'state') throw error;
      refusal = error;
    }
  }
  const tried = spec.hostPorts.map((port) => (port === 0 ? 'any free port' : String(port))).join(' or ');
  throw new TshyveError(
    'precondition',
    `Cannot forward ${hostAddress}:${tried} to the machine's ${name} port (${messageOf(refusal)}). Stop the program that listens there ("ss -ltnp" names it) or choose another port.`,
    { cause: refusal },
  );
}
