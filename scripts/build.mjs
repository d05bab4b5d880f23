// Bundles the sources into dist/: CommonJS chunks that load each other only when needed. esbuild splits only ES
// modules, which start slower, so the splitting is done here: every dynamic import() starts a chunk of its own. Each
// chunk has its own copy of what it uses of driver/base, so that a plugin that starts loads no more than that.
import { build } from 'esbuild';
import { chmodSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const dist = join(root, 'dist');
const base = join(root, 'driver/base');
const main = join(root, 'driver/main.ts');
const started = performance.now();

/** Chunk name of a module: its path without slashes; packages get their own name. */
const chunks = new Map();
const queue = [];
function chunkOf(target) {
  let name = chunks.get(target);
  if (name === undefined) {
    const stem = target.startsWith('/') ? relative(join(root, 'driver'), target).replace(/\.ts$/, '') : `lib/${target}`;
    name = `${stem.replace(/^\.\.\//, '').replace(/[^a-z0-9]+/gi, '-')}.cjs`;
    chunks.set(target, name);
    queue.push(target);
  }
  return name;
}

const splitting = {
  name: 'splitting',
  setup(hooks) {
    hooks.onResolve({ filter: /.*/ }, (args) => {
      if (args.pluginData === 'resolved' || args.path.startsWith('node:')) return undefined;
      const isOwn = args.path.startsWith('.') && !args.importer.includes('node_modules');
      const target = isOwn ? resolve(args.resolveDir, args.path.replace(/\.js$/, '.ts')) : args.path;
      if (args.importer.includes('node_modules') || args.kind === 'entry-point') return undefined;
      // grpc-js lives in one chunk, whoever imports it.
      const shared = target === '@grpc/grpc-js' && !args.importer.includes('node_modules');
      const isBase = dirname(target) === base;
      if (shared || (args.kind === 'dynamic-import' && !isBase)) {
        return { path: `./${chunkOf(target)}`, external: true };
      }
      // Nothing in base acts on its own: what a chunk does not use of it is left out.
      return isBase ? { path: target, sideEffects: false } : undefined;
    });
    // Optional native parts of ssh2: it works without, and a bundle cannot carry them.
    hooks.onResolve({ filter: /^cpu-features$|\.node$/ }, () => ({ path: 'empty', namespace: 'empty' }));
    hooks.onLoad({ filter: /.*/, namespace: 'empty' }, () => ({ contents: 'throw new Error("not bundled")' }));
  },
};

rmSync(dist, { recursive: true, force: true });
mkdirSync(dist);
chunkOf(main);
const sizes = [];
const inputs = {};
for (let target = queue.shift(); target !== undefined; target = queue.shift()) {
  const result = await build({
    entryPoints: [target],
    outfile: join(dist, chunks.get(target)),
    absWorkingDir: root,
    bundle: true,
    format: 'cjs',
    platform: 'node',
    target: 'node20',
    sourcemap: 'external',
    metafile: true,
    logLevel: 'warning',
    // import() becomes require(): the ES module loader would cost milliseconds on the plugin's start path.
    supported: { 'dynamic-import': false },
    define: { 'import.meta.url': 'tshyveModuleUrl' },
    banner: { js: "const tshyveModuleUrl = require('node:url').pathToFileURL(__filename).href;" },
    plugins: [splitting],
  });
  const [output] = Object.values(result.metafile.outputs).filter((file) => file.entryPoint !== undefined);
  sizes.push([chunks.get(target), output.bytes]);
  inputs[chunks.get(target)] = { imports: output.imports.map((item) => item.path), inputs: Object.keys(output.inputs) };
}
for (const program of ['tshyve', 'docker-machine-driver-tshyve', 'tshyve-vmm', 'tshyve-switch']) {
  const path = join(dist, `${program}.cjs`);
  writeFileSync(path, `#!/usr/bin/env node\nrequire('./main.cjs').start('${program}');\n`);
  chmodSync(path, 0o755);
}
writeFileSync(join(dist, 'meta.json'), JSON.stringify(inputs, null, 1));
for (const [name, bytes] of sizes.sort((a, b) => b[1] - a[1]).slice(0, 6))
  console.log(`${String(Math.ceil(bytes / 1024)).padStart(6)} KiB  ${name}`);
console.log(`Built ${sizes.length} chunks in ${((performance.now() - started) / 1000).toFixed(1)} s`);
