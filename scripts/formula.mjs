// Writes a Homebrew formula for the archives of a release, which `npm run package` has made on each platform.
// Usage: npm run formula -- --url URL [--homepage URL] [--out FILE] ARCHIVE...
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const usage = `Usage: npm run formula -- --url URL [OPTIONS] ARCHIVE...

Writes a Homebrew formula that installs these archives (tshyve-VERSION-PLATFORM.tar.gz, one for each platform).
  --url URL         where the archives can be downloaded, without their names: https://HOST/.../
  --homepage URL    default: the same
  --out FILE        default: release/tshyve.rb
`;
const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');

function fail(text) {
  process.stderr.write(`formula: ${text}\n`);
  process.exit(2);
}

const { values: options, positionals: archives } = parseArgs({
  allowPositionals: true,
  options: {
    url: { type: 'string' },
    homepage: { type: 'string' },
    out: { type: 'string', default: join(root, 'release/tshyve.rb') },
    help: { type: 'boolean', short: 'h' },
  },
});
if (options.help === true) {
  process.stdout.write(usage);
  process.exit(0);
}
const base = checkUrl('--url', options.url);
const homepage = options.homepage === undefined ? base : checkUrl('--homepage', options.homepage);
if (archives.length === 0) fail('give the archives of a release; see --help');

function checkUrl(option, text) {
  // It becomes a string of Ruby's, where `"`, `#` and `\` have a meaning.
  if (text === undefined || !/^https:\/\/[\w.:/@%~+-]+$/.test(text)) fail(`${option} must be a plain https url`);
  return text;
}

/** What Homebrew calls the platforms of Node, in the order in which they are written. */
const systems = { darwin: 'on_macos', linux: 'on_linux' };
const processors = { arm64: 'on_arm', x64: 'on_intel' };

const found = new Map();
const versions = new Set();
for (const archive of archives) {
  const name = basename(archive);
  const [, version, system, processor] = /^tshyve-(.+)-(darwin|linux)-(arm64|x64)\.tar\.gz$/.exec(name) ?? [];
  if (processor === undefined) fail(`${name} is no archive of a release (tshyve-VERSION-PLATFORM.tar.gz)`);
  if (found.has(`${system} ${processor}`)) fail(`there are two archives for ${system}-${processor}`);
  versions.add(version);
  const sha256 = createHash('sha256').update(readFileSync(archive)).digest('hex');
  found.set(`${system} ${processor}`, { url: `${base.replace(/\/$/, '')}/${name}`, sha256 });
}
if (versions.size > 1) fail(`the archives are of several versions: ${[...versions].join(', ')}`);

const blocks = Object.entries(systems).flatMap(([system, onSystem]) => {
  const inner = Object.entries(processors).flatMap(([processor, onProcessor]) => {
    const archive = found.get(`${system} ${processor}`);
    if (archive === undefined) return [];
    return [`    ${onProcessor} do`, `      url "${archive.url}"`, `      sha256 "${archive.sha256}"`, '    end'];
  });
  return inner.length === 0 ? [] : [`  ${onSystem} do`, ...inner, '  end', ''];
});
const formula = readFileSync(join(root, 'packaging/homebrew.rb.in'), 'utf8')
  .replace('@HOMEPAGE@', homepage)
  .replace('@VERSION@', [...versions].join(''))
  .replace('@ARCHIVES@\n', `${blocks.join('\n')}\n`);
mkdirSync(dirname(resolve(options.out)), { recursive: true });
writeFileSync(options.out, formula);
process.stdout.write(`${resolve(options.out)}\n`);
