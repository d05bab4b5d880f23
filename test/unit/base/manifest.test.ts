import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { Ajv } from 'ajv';
import { expect, test } from 'vitest';

import { packageRoot, readManifest } from '../../../driver/base/index.js';

const read = (name: string) => JSON.parse(readFileSync(join(packageRoot(), name), 'utf8')) as Record<string, unknown>;
const validate = new Ajv({ strict: true, strictRequired: false, allowUnionTypes: true }).compile(
  read('plugin-manifest.schema.json'),
);

test('the manifest fits its schema and the package', () => {
  expect(validate(read('plugin-manifest.json')), JSON.stringify(validate.errors)).toBe(true);
  expect(readManifest().version).toBe(read('package.json')['version']);
  expect(readFileSync(join(packageRoot(), 'iso/VERSION'), 'utf8').trim()).toMatch(/^\d+\.\d+\.\d+$/);
});

test.each([
  [{ version: '1' }],
  [{ platforms: [] }],
  [{ platforms: ['beos/ppc'] }],
  [{ images: [{ architecture: 'amd64' }] }],
  [{ images: [{ architecture: 'amd64', url: 'http://x', sha256: 'f'.repeat(64) }] }],
  [{ surprise: true }],
])('%j is refused', (change) => {
  expect(validate({ ...read('plugin-manifest.json'), ...change })).toBe(false);
});
