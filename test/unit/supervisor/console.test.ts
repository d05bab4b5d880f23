import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { expect, test } from 'vitest';

import { ConsoleEvents } from '../../../driver/supervisor/console-events.js';
import { RotatingLog } from '../../../driver/supervisor/rotating-log.js';

function eventsOf(...chunks: string[]): string[] {
  const events: string[] = [];
  const parser = new ConsoleEvents((name, argument) => events.push(`${name} ${argument}`.trim()));
  for (const chunk of chunks) parser.push(Buffer.from(chunk, 'latin1'));
  return events;
}

test('milestones are found in any chunking', () => {
  const text = 'boot\r\ntshyve-event: init\r\nnoise\ntshyve-event: address 10.0.2.15\n';
  expect(eventsOf(text)).toEqual(['init', 'address 10.0.2.15']);
  expect(eventsOf(...Array.from(text))).toEqual(['init', 'address 10.0.2.15']);
});

test('what a hostile guest prints does no harm', () => {
  expect(eventsOf('tshyve-event: reboot\n', 'x tshyve-event: ssh\n', 'tshyve-event: ')).toEqual([]);
  expect(eventsOf(`tshyve-event: ssh ${'a'.repeat(1000)}\n`)).toEqual([]);
  expect(eventsOf('a'.repeat(10_000_000), '\ntshyve-event: ssh\n')).toEqual(['ssh']);
  expect(eventsOf('tshyve-event: address \x1b]0;$(x)\x07\n')).toEqual(['address 0x']);
});

test('a log stays below its limit and loses nothing recent', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tshyve-test-'));
  try {
    const path = join(folder, 'console.log');
    const log = new RotatingLog(path, 1000);
    let written = '';
    for (let index = 0; index < 500; index++) {
      const line = `line ${String(index)}\n`;
      written += line;
      log.write(Buffer.from(line));
    }
    log.close();
    expect(statSync(path).size).toBeLessThanOrEqual(1000);
    expect(statSync(`${path}.1`).size).toBeLessThanOrEqual(1000);
    const kept = readFileSync(`${path}.1`, 'utf8') + readFileSync(path, 'utf8');
    expect(written.endsWith(kept)).toBe(true);
    expect(kept.length).toBeGreaterThan(1000);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
