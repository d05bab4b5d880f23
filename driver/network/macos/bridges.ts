import { type NetworkInterfaceInfo, networkInterfaces } from 'node:os';

import { type Subnet, contains, parseSubnet } from '../shared/subnet.js';

/** A network that vmnet has made on this Mac: it shows as an interface bridge100, bridge101, … */
export interface Bridge {
  readonly name: string;
  readonly subnet: Subnet;
}

/** The bridges that are up. Virtualization.framework's NAT brings its own up with the first machine. */
export function bridges(interfaces: NodeJS.Dict<NetworkInterfaceInfo[]> = networkInterfaces()): Bridge[] {
  return Object.entries(interfaces).flatMap(([name, addresses]) => {
    if (!/^bridge1\d\d$/.test(name)) return [];
    return (addresses ?? []).flatMap(({ family, cidr }) => {
      const subnet = family === 'IPv4' && cidr !== null ? parseSubnet(cidr) : undefined;
      return subnet === undefined ? [] : [{ name, subnet }];
    });
  });
}

/** True when an address lies on one of the bridges, or when none is known to tell by. */
export function isOnBridge(address: string, known: readonly Bridge[]): boolean {
  return known.length === 0 || known.some(({ subnet }) => contains(subnet, address));
}
