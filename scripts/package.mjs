// Makes the release of this platform: one executable that holds Node and all programs (Node's single executable
// applications), links of their names, and beside it what is a file of its own: manifest, native core, guest image.
// Usage: npm run package [-- --out DIR] [--without-image]
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { inject } from 'postject';

/** What Node looks for in itself (nodejs.org/api/single-executable-applications.html). */
const FUSE = 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2';
const usage = `Usage: npm run package [-- OPTIONS]

Makes a release for this platform of what was built: run "npm run build", "npm run build:native" and iso/build.sh before.
  --out DIR         where to (default: release)
  --without-image   leaves out the guest image, for machines that name another with --tshyve-image-url
`;

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const { values: options } = parseArgs({
  options: { out: { type: 'string' }, 'without-image': { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
});
if (options.help === true) {
  process.stdout.write(usage);
  process.exit(0);
}
const manifest = JSON.parse(readFileSync(join(root, 'plugin-manifest.json'), 'utf8'));
const platform = `${process.platform}-${process.arch}`;
const name = `tshyve-${manifest.version}-${platform}`;
const out = resolve(options.out ?? join(root, 'release'));
const release = join(out, name);
const mac = process.platform === 'darwin';

function need(path, fix) {
  if (!existsSync(path)) {
    process.stderr.write(`package: ${path} is missing: ${fix}\n`);
    process.exit(1);
  }
  return path;
}

/** Node with our programs inside. */
async function makeExecutable(target) {
  const dist = dirname(need(join(root, 'dist/main.cjs'), 'run "npm run build".'));
  const work = mkdtempSync(join(tmpdir(), 'tshyve-package-'));
  try {
    const blob = join(work, 'programs.blob');
    const chunks = readdirSync(dist).filter((file) => file.endsWith('.cjs'));
    const config = {
      main: join(root, 'packaging/single-executable.cjs'),
      output: blob,
      disableExperimentalSEAWarning: true,
      assets: Object.fromEntries(chunks.map((file) => [file, join(dist, file)])),
    };
    writeFileSync(join(work, 'config.json'), JSON.stringify(config));
    execFileSync(process.execPath, ['--experimental-sea-config', join(work, 'config.json')], { stdio: 'pipe' });
    copyFileSync(process.execPath, target);
    chmodSync(target, 0o755);
    // A signature covers the whole file: the old one goes before the blob comes.
    if (mac) execFileSync('codesign', ['--remove-signature', target]);
    await inject(target, 'NODE_SEA_BLOB', readFileSync(blob), {
      sentinelFuse: FUSE,
      ...(mac ? { machoSegmentName: 'NODE_SEA' } : {}),
    });
    if (mac) {
      const entitlements = join(root, 'packaging/macos/entitlements.plist');
      execFileSync('codesign', ['--sign', '-', '--force', '--entitlements', entitlements, target]);
    }
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

rmSync(release, { recursive: true, force: true });
mkdirSync(join(release, 'bin'), { recursive: true });
await makeExecutable(join(release, 'bin/tshyve'));
for (const program of ['docker-machine-driver-tshyve', 'tshyve-vmm']) {
  symlinkSync('tshyve', join(release, 'bin', program));
}
for (const file of ['plugin-manifest.json', 'LICENSE', 'README.md'])
  copyFileSync(join(root, file), join(release, file));
// For whoever has to sign it again.
if (mac) copyFileSync(join(root, 'packaging/macos/entitlements.plist'), join(release, 'entitlements.plist'));
cpSync(need(join(root, 'prebuilds', platform), 'run "npm run build:native".'), join(release, 'prebuilds', platform), {
  recursive: true,
});
if (options['without-image'] !== true) {
  const architecture = process.arch === 'x64' ? 'amd64' : process.arch;
  const { file } = manifest.images.find((image) => image.architecture === architecture) ?? {};
  if (file !== undefined) {
    const fix = `run "iso/build.sh --arch ${architecture}" on Debian or Ubuntu, and put the result there; or --without-image.`;
    mkdirSync(dirname(join(release, file)), { recursive: true });
    copyFileSync(need(join(root, file), fix), join(release, file));
  }
}
const archive = join(out, `${name}.tar.gz`);
// The builder's own user means nothing elsewhere; macOS' tar says it otherwise than GNU's.
const owner = mac ? ['--uid', '0', '--gid', '0'] : ['--owner=0', '--group=0'];
execFileSync('tar', ['-C', out, ...owner, '-czf', archive, name]);
process.stdout.write(`${join(release, 'bin/tshyve')}\n${archive}\n`);
process.stdout.write(`Unpack ${basename(archive)} anywhere and put its bin folder on the PATH.\n`);
