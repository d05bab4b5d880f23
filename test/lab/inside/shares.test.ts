import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, expect, test } from 'vitest';

import { type Backend, withGuest } from './guest.js';
import './lab.js';

let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'share-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

// QEMU's machines are served by the same virtiofsd; the end-to-end tests boot them.
test.each<Backend>(['native'])(
  'a guest on %s shares folders with the host, also after it restarts',
  async (backend) => {
    writeFileSync(join(folder, 'from-host'), 'of the host\n');
    const shares = [
      { directory: folder, readOnly: false },
      { directory: folder, readOnly: true },
    ];
    await withGuest(backend, { kernel: 'cloud-6.1', shares, words: 'lab.task=shares' }, async (guest) => {
      expect(await guest.end(), guest.console + guest.said).toBe(0);
      expect(guest.console).not.toContain('failed');
      const said = [
        '/share/from-host says of the host',
        '/read-only/from-host says of the host',
        'read-only: Read-only file system',
      ];
      for (const line of said) expect(guest.console.split(`tshyve-lab: ${line}`), line).toHaveLength(3);
    });
    expect(readFileSync(join(folder, 'from-guest'), 'utf8')).toBe('of the guest\n'.repeat(2));
    expect(readdirSync(folder).sort()).toEqual(['from-guest', 'from-host']);
  },
);
