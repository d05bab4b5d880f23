import { spawn } from 'node:child_process';
import { once } from 'node:events';

import { afterAll, describe, expect, test } from 'vitest';

import { commandLineOf } from '../../../driver/supervisor/command-line.js';

// Longer than a terminal is wide, and than what ps(1) shows of a name.
const words = ['5', '--', `/run/${'x'.repeat(500)}/qmp.sock`];
const child = spawn('sh', ['-c', 'read -r _', ...words], { stdio: ['pipe', 'ignore', 'ignore'] });
afterAll(() => child.kill());

// ps(1) of Linux knows the options that macOS' has.
describe.each(['linux', 'darwin'] as const)('on %s', (platform) => {
  test('the whole command line of a process, and nothing of one that is gone', async () => {
    for (const word of words) expect(await commandLineOf(child.pid ?? 0, platform)).toContain(word);
    const gone = spawn('true');
    await once(gone, 'exit');
    expect(await commandLineOf(gone.pid ?? 0, platform)).toBe('');
  });
});
