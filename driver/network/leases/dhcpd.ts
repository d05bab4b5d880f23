import { isIPv4 } from 'node:net';

import { type Lease, parseMac } from './lease.js';

/**
 * dhcpd.leases of ISC dhcpd (dhcpd.leases(5)) and of VMware's vmnet-dhcpd: a log of `lease ADDRESS { … }` blocks in
 * which the last block of an address wins. Only active leases count. Values may be strings with escapes, which may hold
 * braces and semicolons.
 */
export function parseDhcpdLeases(text: string): Lease[] {
  const latest = new Map<string, Lease | undefined>();
  const tokens = tokenize(text);
  for (let index = 0; index < tokens.length; index++) {
    const address = tokens[index + 1]?.text ?? '';
    if (!isWord(tokens[index], 'lease') || !isIPv4(address) || !isMark(tokens[index + 2], '{')) continue;
    const end = blockEnd(tokens, index + 3);
    // The end of the file came before the end of the block: it is being written.
    if (end === undefined) break;
    // Deleted and set again, so that the map is in the order of the log.
    latest.delete(address);
    latest.set(address, fromStatements(address, tokens.slice(index + 3, end)));
    index = end;
  }
  return [...latest.values()].filter((lease) => lease !== undefined).reverse();
}

interface Token {
  readonly kind: 'word' | 'string' | 'mark';
  readonly text: string;
}

function isWord(token: Token | undefined, text: string): boolean {
  return token?.kind === 'word' && token.text === text;
}

function isMark(token: Token | undefined, text: string): boolean {
  return token?.kind === 'mark' && token.text === text;
}

/** The index of the brace that closes a block which begins at `start`. */
function blockEnd(tokens: readonly Token[], start: number): number | undefined {
  let depth = 1;
  for (let index = start; index < tokens.length; index++) {
    if (isMark(tokens[index], '{')) depth++;
    if (isMark(tokens[index], '}') && --depth === 0) return index;
  }
  return undefined;
}

function fromStatements(address: string, tokens: readonly Token[]): Lease | undefined {
  let expiresAt = 0;
  let active = true;
  let mac: string | undefined;
  let clientId: string | undefined;
  let name: string | undefined;
  for (const statement of statements(tokens)) {
    const words = statement.map((token) => token.text);
    if (words[0] === 'ends') expiresAt = time(words.slice(1));
    else if (words[0] === 'binding' && words[1] === 'state') active = words[2] === 'active';
    else if (words[0] === 'abandoned') active = false;
    else if (words[0] === 'hardware' && words[1] === 'ethernet') mac = parseMac(words[2] ?? '');
    else if (words[0] === 'client-hostname') name = words[1];
    else if (words[0] === 'uid') clientId = identifier(statement[1]);
  }
  return active ? { address, mac, clientId, name, expiresAt } : undefined;
}

/** The statements at the outermost level of a block; nested blocks (`on expiry { … }`) are passed over. */
function* statements(tokens: readonly Token[]): Generator<Token[]> {
  let statement: Token[] = [];
  let depth = 0;
  for (const token of tokens) {
    if (isMark(token, '{')) depth++;
    else if (isMark(token, '}')) {
      depth--;
      statement = [];
    } else if (depth === 0 && isMark(token, ';')) {
      yield statement;
      statement = [];
    } else if (depth === 0) statement.push(token);
  }
}

/** `2 2026/11/23 22:46:14` in UTC after a weekday, `epoch 1795477620`, or `never`. */
function time(words: readonly string[]): number {
  if (words[0] === 'never') return Infinity;
  if (words[0] === 'epoch') return Number(words[1]) * 1000 || 0;
  const match = /^(\d{4})\/(\d{1,2})\/(\d{1,2}) (\d{1,2}):(\d{2}):(\d{2})$/.exec(words.slice(1).join(' '));
  if (match === null) return 0;
  const [year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0] = match.slice(1).map(Number);
  return Date.UTC(year, month - 1, day, hour, minute, second);
}

function identifier(token: Token | undefined): string | undefined {
  if (token === undefined) return undefined;
  if (token.kind === 'word') return /^[0-9a-f]{1,2}(:[0-9a-f]{1,2})+$/i.test(token.text) ? pad(token.text) : undefined;
  const bytes = Buffer.from(token.text, 'latin1');
  return bytes.length < 2 ? undefined : (bytes.toString('hex').match(/../g) ?? []).join(':');
}

function pad(octets: string): string {
  return octets
    .toLowerCase()
    .split(':')
    .map((octet) => octet.padStart(2, '0'))
    .join(':');
}

function tokenize(text: string): Token[] {
  const tokens: Token[] = [];
  const pattern = /#[^\n]*|"((?:[^"\\]|\\[^])*)"|[{};]|[^\s{};"#]+/g;
  for (const match of text.matchAll(pattern)) {
    if (match[0].startsWith('#')) continue;
    if (match[1] !== undefined) tokens.push({ kind: 'string', text: unescape(match[1]) });
    else tokens.push({ kind: /^[{};]$/.test(match[0]) ? 'mark' : 'word', text: match[0] });
  }
  return tokens;
}

/** C escapes as dhcpd writes them: octal, and a backslash before quotes and backslashes. */
function unescape(text: string): string {
  return text.replace(/\\([0-7]{1,3}|[^])/g, (_, escaped: string) =>
    /^[0-7]/.test(escaped) ? String.fromCharCode(parseInt(escaped, 8) & 0xff) : escaped,
  );
}
