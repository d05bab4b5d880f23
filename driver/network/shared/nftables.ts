import { type NetworkDefinition, bridgeName } from './definition.js';
import { formatSubnet } from './subnet.js';

/** The table of a network. Each network has its own; tables of others are never touched. */
export function tableName(name: string): string {
  return `tshyve-${name}`;
}

/**
 * nft(8) text that puts a network's rules in place, replacing what an earlier run left: source NAT towards everywhere
 * else, replies let in, and nothing new let in from outside the host, other networks of ours included.
 */
export function nftablesRules(definition: NetworkDefinition): string {
  const table = `inet ${tableName(definition.name)}`;
  const bridge = `"${bridgeName(definition.name)}"`;
  const ipv4 = formatSubnet(definition.ipv4);
  return `table ${table} {}
delete table ${table}
table ${table} {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr ${ipv4} ip daddr != ${ipv4} masquerade
		ip6 saddr ${definition.ipv6} ip6 daddr != ${definition.ipv6} oifname != ${bridge} masquerade
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname ${bridge} oifname ${bridge} accept
		oifname ${bridge} ct state established,related accept
		oifname ${bridge} drop
	}
}
`;
}

/** nft(8) text that removes the rules, whether they are there or not. */
export function nftablesRemoval(name: string): string {
  const table = `inet ${tableName(name)}`;
  return `table ${table} {}\ndelete table ${table}\n`;
}
