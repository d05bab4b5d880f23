import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';

import { expect, test } from 'vitest';

import { chooseCandidates, parseBootpdLeases, readLeases } from '../../../../driver/network/leases/index.js';

const READS = 10_000;
const MAC = '0a:03:c5:00:9f:41';
/** What the scripted server gives our machine, one after the other; nobody else is ever given one of them. */
const ours = ['192.168.64.7', '192.168.64.71', '192.168.64.171'];

/**
 * A bootpd that never rests: it renews, adds, declines and moves entries of several machines, and writes the file anew
 * each time, as the real one does (a new file, renamed) or in place in small pieces, as a full disk or an editor would.
 */
const server = `
  const { writeFileSync, renameSync, openSync, writeSync, closeSync, ftruncateSync } = require('node:fs');
  const { workerData, parentPort } = require('node:worker_threads');
  const { path, inPlace, ours, stop } = workerData;
  const flag = new Int32Array(stop);
  const later = () => '0x' + (Math.floor(Date.now() / 1000) + 3600 + Math.floor(Math.random() * 9999)).toString(16);
  const block = (fields) => '{\\n' + Object.entries(fields).map(([k, v]) => '\\t' + k + '=' + v + '\\n').join('') + '}\\n';
  const entry = (address, id, more) => ({ name: 'dev', ip_address: address, hw_address: id, identifier: id, lease: later(), ...more });
  const us = '1,a:3:c5:0:9f:41';
  for (let round = 0; Atomics.load(flag, 0) === 0; round++) {
    const blocks = [];
    for (let i = 0; i < 20; i++) blocks.push(block(entry('192.168.64.' + (100 + i), '1,a:3:c5:0:9f:' + (0x50 + i).toString(16))));
    blocks.push(block(entry(ours[round % ours.length], us)));
    // Leftovers of ours that must not win: one in conflict, one of long ago.
    const conflict = entry('192.168.64.200', us, { declined: us });
    blocks.push(block(conflict), block(entry('192.168.64.201', us, { lease: '0x1000' })));
    // The name of ours, with a DUID, and one of ours without a lease time.
    blocks.push(block(entry('192.168.64.202', 'ff,8c:1:22:7:0:2:0:0:ab:11:5:ee:90:41:7:3b:c2:de')));
    const { lease, ...unborn } = entry('192.168.64.203', us);
    blocks.push(block(unborn));
    blocks.sort(() => Math.random() - 0.5);
    const text = blocks.join('');
    if (inPlace) {
      const fd = openSync(path, 'w');
      for (let at = 0; at < text.length; at += 97) writeSync(fd, text.slice(at, at + 97));
      closeSync(fd);
    } else {
      writeFileSync(path + '-', text);
      renameSync(path + '-', path);
    }
    if (round === 0) parentPort.postMessage('ready');
  }
  parentPort.postMessage('over');
`;

test.each([
  ['replaced by rename, as bootpd does', false],
  ['rewritten in place', true],
])('a file %s while it is read 10,000 times gives our addresses or none', { timeout: 120_000 }, async (_, inPlace) => {
  const folder = mkdtempSync(join(tmpdir(), 'tshyve-test-'));
  const path = join(folder, 'dhcpd_leases');
  const stop = new SharedArrayBuffer(4);
  const worker = new Worker(server, { eval: true, workerData: { path, inPlace, ours, stop } });
  const message = (text: string) =>
    new Promise<void>((resolve, reject) => {
      worker.on('message', (said) => {
        if (said === text) resolve();
      });
      worker.once('error', reject);
    });
  const over = message('over');
  try {
    await message('ready');
    const seen = new Map<string, number>();
    let reads = 0;
    // On a busy host the server may write rarely: until each of its addresses was seen, more reads follow.
    for (; reads < READS || ours.some((address) => !seen.has(address)); reads++) {
      if (reads % 100 === 0) await setImmediate();
      // Without its second look at an empty file, which would take most of the reads' time.
      const leases = inPlace
        ? parseBootpdLeases(readFileSync(path, 'utf8'))
        : await readLeases({ path, parse: parseBootpdLeases });
      const candidates = chooseCandidates(leases, { mac: MAC, before: [], now: Date.now() });
      for (const { address } of candidates) seen.set(address, (seen.get(address) ?? 0) + 1);
    }
    expect([...seen.keys()].sort()).toEqual([...ours].sort());
    // A file that is replaced is whole whenever it is read.
    const found = [...seen.values()].reduce((sum, count) => sum + count, 0);
    if (!inPlace) expect(found).toBe(reads);
  } finally {
    Atomics.store(new Int32Array(stop), 0, 1);
    await over;
    await worker.terminate();
    rmSync(folder, { recursive: true });
  }
});
