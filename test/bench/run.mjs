// Benchmarks: figures beside a baseline of the same run, variants interleaved. `npm run bench [-- --rounds N]`.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..');
const rounds = Number(process.argv[process.argv.indexOf('--rounds') + 1]) || 40;
const work = mkdtempSync(join(tmpdir(), 'tshyve-bench-'));

// Node 20 reads this file at start, which costs more than all of the plugin.
const env = { ...process.env, MACHINE_PLUGIN_TOKEN: '42', MACHINE_PLUGIN_DRIVER_NAME: 'tshyve' };
delete env.NODE_EXTRA_CA_CERTS;

/** Milliseconds from spawn to the first line on stdout. */
function coldStart(args) {
  return new Promise((settle, reject) => {
    const begin = process.hrtime.bigint();
    const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'ignore'] });
    child.on('error', reject);
    child.stdout.once('data', () => {
      const ms = Number(process.hrtime.bigint() - begin) / 1e6;
      child.once('close', () => settle(ms));
      child.kill('SIGKILL');
    });
  });
}

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

try {
  const minimal = join(work, 'minimal.cjs');
  writeFileSync(
    minimal,
    "const s = require('node:net').createServer(); s.listen(0, '127.0.0.1', () => console.log('127.0.0.1:' + s.address().port));",
  );
  const variants = {
    'minimal Node script that listens and prints': [minimal],
    'docker-machine-driver-tshyve': [join(root, 'dist/docker-machine-driver-tshyve.cjs')],
  };
  const times = Object.fromEntries(Object.keys(variants).map((name) => [name, []]));
  for (let round = 0; round < rounds + 2; round++) {
    for (const [name, args] of Object.entries(variants)) {
      const ms = await coldStart(args);
      // The first rounds warm the page cache.
      if (round >= 2) times[name].push(ms);
    }
  }
  console.log(`Plugin cold start, spawn to address line (median of ${rounds}):`);
  const baseline = median(times[Object.keys(variants)[0]]);
  for (const [name, values] of Object.entries(times)) {
    console.log(
      `  ${name.padEnd(46)} ${median(values).toFixed(1).padStart(7)} ms   ratio ${(median(values) / baseline).toFixed(2)}`,
    );
  }
} finally {
  rmSync(work, { recursive: true, force: true });
}
