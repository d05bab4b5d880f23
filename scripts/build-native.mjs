// Builds the native addon into prebuilds/<platform>-<arch>/tshyve.<libc>.node, where the loader
// (driver/hypervisor/native/addon.ts) finds it. Needs g++ and cmake; needs no network and no Node headers beyond the
// npm package node-api-headers. What was built is remembered by a hash of its inputs, so a repeat takes milliseconds.
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const help = `Usage: npm run build:native [-- --force]

Builds the native hypervisor core and its Node addon, for Linux on x86-64 and for macOS. Needs g++, cmake, pkg-config and
libslirp-dev: on Debian and Ubuntu "apt-get install g++ cmake pkg-config libslirp-dev". On a Mac it needs Xcode 16 or
later (its command line tools will do) and cmake. --force builds although nothing has changed.
`;
const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const argument = process.argv[2] ?? '';
if (argument !== '' && argument !== '--force') {
  (argument === '--help' ? process.stdout : process.stderr).write(help);
  process.exit(argument === '--help' ? 0 : 2);
}
const supported = (process.platform === 'linux' && process.arch === 'x64') || process.platform === 'darwin';
if (!supported) {
  console.log(`There is no native core for ${process.platform}-${process.arch}; tshyve uses QEMU there.`);
  process.exit(0);
}

const require = createRequire(import.meta.url);
// Both are header-only packages.
const includes = [
  dirname(require.resolve('node-addon-api/package.json')),
  join(dirname(require.resolve('node-api-headers/package.json')), 'include'),
];
const libc = cLibrary();
const folder = join(root, 'prebuilds', `${process.platform}-${process.arch}`);
const target = join(folder, `tshyve.${libc}.node`);
const stampFile = join(folder, `tshyve.${libc}.stamp`);
const build = join(root, 'native', 'build', 'addon');

const stamp = inputsHash();
if (
  argument !== '--force' &&
  existsSync(target) &&
  existsSync(stampFile) &&
  readFileSync(stampFile, 'utf8') === stamp
) {
  console.log(`${target} is up to date`);
  process.exit(0);
}
const started = performance.now();
need('cmake', 'cmake');
need(process.env.CXX ?? 'c++', process.platform === 'darwin' ? 'xcode' : 'g++');
const generator = spawnSync('ninja', ['--version']).status === 0 ? ['-G', 'Ninja'] : [];
const arguments_ = [
  ...['-S', join(root, 'native'), '-B', build, ...generator],
  ...['-DTSHYVE_ADDON=ON', '-DTSHYVE_TESTS=OFF', '-DTSHYVE_FUZZERS=OFF'],
  ...['-DCMAKE_BUILD_TYPE=RelWithDebInfo', '-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O2 -DNDEBUG'],
  // Compilers we have not met may warn of what ours do not.
  '-DTSHYVE_WARNINGS_ARE_ERRORS=OFF',
  `-DTSHYVE_NODE_INCLUDES=${includes.join(';')}`,
];
// A build folder of another generator or another place is of no use.
if (!cmake(arguments_, true)) {
  rmSync(build, { recursive: true, force: true });
  if (!cmake(arguments_, false)) fail();
}
if (!cmake(['--build', build, '--target', 'tshyve_addon', '--parallel', String(availableParallelism())], false)) fail();
mkdirSync(folder, { recursive: true });
// By rename: a running machine has the old file mapped.
copyFileSync(join(build, 'tshyve.node'), `${target}.new`);
renameSync(`${target}.new`, target);
writeFileSync(stampFile, stamp);
console.log(`Built ${target} in ${((performance.now() - started) / 1000).toFixed(1)} s`);

function inputsHash() {
  const hash = createHash('sha256');
  const add = (path) => {
    for (const entry of readdirSync(path, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const child = join(path, entry.name);
      if (entry.isDirectory()) {
        if (entry.name !== 'build') add(child);
      } else if (/\.(cc|mm|c|h|inc|txt|cmake)$/.test(entry.name) && !/_(test|fuzz)\.cc$/.test(entry.name)) {
        hash.update(child.slice(root.length)).update('\0').update(readFileSync(child)).update('\0');
      }
    }
  };
  add(join(root, 'native'));
  hash.update(readFileSync(fileURLToPath(import.meta.url)));
  for (const name of ['node-addon-api', 'node-api-headers']) hash.update(require(`${name}/package.json`).version);
  return hash
    .update(process.env.CXX ?? '')
    .update(process.env.CXXFLAGS ?? '')
    .digest('hex');
}

/** As driver/hypervisor/native/addon.ts names it. */
function cLibrary() {
  if (process.platform === 'darwin') return 'libsystem';
  return readFileSync('/proc/self/maps', 'latin1').includes('/ld-musl-') ? 'musl' : 'glibc';
}

function need(program, debianPackage) {
  if (spawnSync(program, ['--version']).error === undefined) return;
  const onMac = debianPackage === 'xcode' ? 'xcode-select --install' : `brew install ${debianPackage}`;
  const fix = process.platform === 'darwin' ? onMac : `apt-get install ${debianPackage}`;
  console.error(`${program} was not found. Install it, e.g. with "${fix}".`);
  process.exit(1);
}

function cmake(args, quiet) {
  try {
    execFileSync('cmake', args, { stdio: quiet ? 'pipe' : ['ignore', 'pipe', 'inherit'], encoding: 'utf8' });
    return true;
  } catch (error) {
    if (!quiet) process.stderr.write(error.stdout ?? '');
    return false;
  }
}

function fail() {
  console.error(
    'The native core was not built; the lines above say why. "npm run build:native -- --help" lists what it needs.',
  );
  process.exit(1);
}
