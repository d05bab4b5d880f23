import { type NetworkDefinition, type NetworkPlace, bridgeName, gateway, gateway6, leaseRange } from './definition.js';
import { netmask } from './subnet.js';

/** What the guests may call the host by; Docker's and minikube's names. */
const hostAliases = ['host.docker.internal', 'host.minikube.internal', 'host.tshyve.internal'];
/** Machines are found as `NAME` and `NAME.tshyve.internal`; ICANN has set `internal` aside for private use. */
const DOMAIN = 'tshyve.internal';

export interface DnsmasqOptions {
  /** Who answers for names outside: those that a resolv.conf names, or one server. */
  readonly upstream: { readonly resolvConf: string } | { readonly server: string };
  /** Where the guests reach the host, if not at the gateway. */
  readonly host?: string;
  readonly user: string | undefined;
  /** Empty: the group is kept; a namespace has no other. */
  readonly group: string | undefined;
}

/**
 * dnsmasq's configuration for a network (dnsmasq(8)). It answers on the bridge only, gives stable addresses (hash of
 * the MAC, then the lease file), and follows the host's resolv.conf as that changes.
 */
export function dnsmasqConfig(definition: NetworkDefinition, place: NetworkPlace, options: DnsmasqOptions): string {
  const { first, last } = leaseRange(definition);
  const aliases = hostAliases.join(',');
  const lines = [
    `# Written by "tshyve network up ${definition.name}"; changes are lost.`,
    'keep-in-foreground',
    'log-facility=-',
    `interface=${bridgeName(definition.name)}`,
    'except-interface=lo',
    // bind-dynamic: the bridge may go and come back under a running dnsmasq.
    'bind-dynamic',
    'no-hosts',
    // Not the default, which is one file for all dnsmasqs of the host.
    'pid-file=',
    ...('server' in options.upstream
      ? ['no-resolv', `server=${options.upstream.server}`]
      : [`resolv-file=${options.upstream.resolvConf}`]),
    // The keeper watches that file and sends SIGHUP: dnsmasq itself misses changes through a bind mount.
    'no-poll',
    'domain-needed',
    'bogus-priv',
    `domain=${DOMAIN}`,
    'expand-hosts',
    `local=/${DOMAIN}/`,
    `host-record=${aliases},${options.host ?? `${gateway(definition)},${gateway6(definition)}`}`,
    `dhcp-range=${first},${last},${netmask(definition.ipv4)},12h`,
    `dhcp-range=${definition.ipv6.replace('::/64', '::')},ra-stateless,ra-names,64,12h`,
    'enable-ra',
    'dhcp-authoritative',
    'dhcp-no-override',
    // A guest that restarts with another identifier is the same machine: its MAC decides.
    'dhcp-ignore-clid',
    // Without this the first offer takes three seconds longer.
    'no-ping',
    `dhcp-option=option:router,${gateway(definition)}`,
    `dhcp-option=option:dns-server,${gateway(definition)}`,
    `dhcp-hostsdir=${place.hosts}`,
    `dhcp-leasefile=${place.leases}`,
    'dhcp-lease-max=512',
    ...(options.user === undefined ? [] : [`user=${options.user}`]),
    ...(options.group === undefined ? [] : [`group=${options.group}`]),
  ];
  return `${lines.join('\n')}\n`;
}

/** A machine's line in the hosts folder: whoever else claims the name does not get it. */
export function hostLine(mac: string, machineName: string): string {
  return `${mac},${machineName}\n`;
}
