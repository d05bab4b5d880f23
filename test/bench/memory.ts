import { readFile } from 'node:fs/promises';

import { sleep } from '../../driver/base/index.js';
import type { Benchmark } from './benchmark.js';
import { pick } from './harness.js';

/** A supervisor is measured when the create is over and its heap has come to rest. */
const SETTLE_MS = 10_000;
const INTERVAL_MS = 500;

export const memory: Benchmark = {
  name: 'memory',
  about: 'supervisor: resident memory without the hypervisor, after a create',
  rounds: 5,
  needs: ['tshyve', 'image'],
  async run({ world, rounds, signal, say }) {
    say('creating a machine');
    const machine = await world.sharedMachine();
    const { supervisorPid } = await world.status(machine);
    await sleep(SETTLE_MS, signal);
    const values = new Map<string, number[]>([
      ['RSS', []],
      ['PSS', []],
      ['private', []],
    ]);
    for (let round = 0; round < rounds; round++) {
      const rollup = await readFile(`/proc/${String(supervisorPid)}/smaps_rollup`, 'utf8');
      const kibibytes = (field: string) => Number(new RegExp(`^${field}: +(\\d+) kB$`, 'm').exec(rollup)?.[1] ?? NaN);
      values.get('RSS')?.push(kibibytes('Rss') / 1024);
      values.get('PSS')?.push(kibibytes('Pss') / 1024);
      values.get('private')?.push((kibibytes('Private_Dirty') + kibibytes('Private_Clean')) / 1024);
      await sleep(INTERVAL_MS, signal);
    }
    return [
      {
        title: 'Supervisor of one running machine (tshyve-vmm, without QEMU)',
        unit: 'MiB',
        series: pick(values, ['RSS', 'PSS', 'private']),
        aims: [{ series: 'RSS', of: 'median', max: 60 }],
      },
    ];
  },
};
