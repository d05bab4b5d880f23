/** What macOS' application firewall does with the DHCP server. */
export interface Firewall {
  readonly enabled: boolean;
  readonly blocksAll: boolean;
  /** `unlisted`: there is no rule, so that the one for signed programs of Apple holds. */
  readonly bootpd: 'allowed' | 'blocked' | 'unlisted';
}

/**
 * Reads what `socketfilterfw` prints for `--getglobalstate`, `--getblockall` and `--listapps`. Its words differ between
 * versions of macOS; what is not understood counts as harmless, since this only explains a failure.
 */
export function parseFirewall(globalState: string, blockAll: string, apps: string): Firewall {
  // "Firewall is enabled. (State = 1)"; state 2 blocks all that is not essential.
  const state = /State\s*=\s*(\d)/.exec(globalState)?.[1];
  const enabled = state === undefined ? /\benabled\b/i.test(globalState) : state !== '0';
  const blocksAll = state === '2' || /block all[^.]*\benabled\b|\bset to block all\b/i.test(blockAll);
  return { enabled, blocksAll: enabled && blocksAll, bootpd: ruleOf('/usr/libexec/bootpd', apps) };
}

/** `12 : /usr/libexec/bootpd`, then a line `( Block incoming connections )` or `(Allow incoming connections)`. */
function ruleOf(program: string, apps: string): Firewall['bootpd'] {
  const lines = apps.split('\n');
  const at = lines.findIndex((line) => line.trim().endsWith(program));
  if (at < 0) return 'unlisted';
  const rule = `${lines[at] ?? ''} ${lines[at + 1] ?? ''}`;
  if (/\bblock/i.test(rule)) return 'blocked';
  return /\ballow/i.test(rule) ? 'allowed' : 'unlisted';
}

/** The interface in what `route -n get default` prints. */
export function parseDefaultInterface(text: string): string | undefined {
  return /^\s*interface:\s*(\S+)$/m.exec(text)?.[1];
}
