// Generates TypeScript from every .proto under driver/ into a `generated` folder beside it. The result is committed;
// `--check` fails when it is not what the .proto files say now.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync, existsSync, mkdirSync, cpSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const check = process.argv.includes('--check');
const options = [
  'esModuleInterop=true',
  'env=node',
  'forceLong=bigint',
  'oneof=unions-value',
  'importSuffix=.js',
  'outputServices=grpc-js',
  'unrecognizedEnum=false',
  'enumsAsLiterals=true',
  'outputJsonMethods=false',
  'annotateFilesWithVersion=false',
];
const folders = new Set(
  readdirSync(join(root, 'driver'), { recursive: true })
    .filter((path) => path.endsWith('.proto'))
    .map((path) => dirname(join(root, 'driver', path))),
);
let stale = false;
for (const folder of folders) {
  const work = mkdtempSync(join(tmpdir(), 'tshyve-proto-'));
  try {
    for (const file of readdirSync(folder).filter((name) => name.endsWith('.proto')))
      cpSync(join(folder, file), join(work, file));
    writeFileSync(join(work, 'buf.yaml'), 'version: v2\nmodules:\n  - path: .\n');
    const plugin = join(root, 'node_modules', '.bin', 'protoc-gen-ts_proto');
    writeFileSync(
      join(work, 'buf.gen.yaml'),
      `version: v2\nplugins:\n  - local: ${JSON.stringify(plugin)}\n    out: out\n    opt: ${JSON.stringify(options)}\n`,
    );
    mkdirSync(join(work, 'out'));
    execFileSync(join(root, 'node_modules', '.bin', 'buf'), ['generate'], { cwd: work, stdio: 'inherit' });
    const target = join(folder, 'generated');
    for (const file of readdirSync(join(work, 'out')).filter((name) => name.endsWith('.ts'))) {
      const fresh = readFileSync(join(work, 'out', file), 'utf8');
      const path = join(target, file);
      if (check) {
        if (!existsSync(path) || readFileSync(path, 'utf8') !== fresh) {
          console.error(`${path} is out of date: run "npm run generate"`);
          stale = true;
        }
      } else {
        mkdirSync(target, { recursive: true });
        writeFileSync(path, fresh);
      }
    }
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
process.exitCode = stale ? 1 : 0;
