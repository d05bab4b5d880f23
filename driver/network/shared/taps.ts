import { rm } from 'node:fs/promises';
import { join } from 'node:path';

import { TshyveError, writeFileAtomic } from '../../base/index.js';
import { bridgeName, networkPlace, readDefinition, tapName } from './definition.js';
import { hostLine } from './dnsmasq-config.js';
import { interfaceExists, must } from './host.js';

export interface TapRequest {
  readonly network: string;
  readonly mac: string;
  readonly machineName: string;
}

/**
 * Gives a machine its interface on a network. An interface that is there already (made beforehand for a user without
 * privileges, or left by a crash) is used as it is.
 * @returns the name of the tap interface
 * @throws TshyveError `precondition` when the network is down, or the interface is missing and may not be made
 */
export async function attachTap(request: TapRequest): Promise<string> {
  const bridge = bridgeName(request.network);
  if ((await readDefinition(request.network)) === undefined || !interfaceExists(bridge)) {
    throw new TshyveError(
      'precondition',
      `The network "${request.network}" is not up: run "sudo tshyve network up ${request.network}".`,
    );
  }
  const tap = tapName(request.mac);
  // The name first: dnsmasq must know it before the guest asks for an address.
  await writeFileAtomic(
    join(networkPlace(request.network).hosts, tap),
    hostLine(request.mac, request.machineName),
    0o644,
  );
  if (interfaceExists(tap)) return tap;
  const owner = String(process.getuid?.() ?? 0);
  await must('ip', ['tuntap', 'add', 'dev', tap, 'mode', 'tap', 'user', owner, 'vnet_hdr']);
  await must('ip', ['link', 'set', tap, 'master', bridge, 'up']);
  return tap;
}

/** Takes a machine off its network; fine when it is not there. */
export async function detachTap(network: string, mac: string): Promise<void> {
  const tap = tapName(mac);
  if (interfaceExists(tap)) await must('ip', ['link', 'delete', tap]);
  await rm(join(networkPlace(network).hosts, tap), { force: true });
}
