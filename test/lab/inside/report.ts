import { expect } from 'vitest';

import type { Guest } from './guest.js';

/**
 * Memory that the guest's kernel keeps for itself, in KiB, for a guest of this size: its image, page structures, and
 * 64 MiB of bounce buffers once there is memory above 4 GiB.
 */
const kept = (memoryMiB: number) => 64 * 1024 + memoryMiB * 24 + (memoryMiB > 3072 ? 64 * 1024 : 0);
/** What a kernel says when something is wrong with the machine it runs on. */
const complaint = /\b(BUG|WARNING|Oops|Call Trace|rcu.*stall|soft lockup)\b/;

/** The guest found these processors and this memory, nothing to complain about, and powered off. */
export async function expectReport(guest: Guest, cpus: number, memoryMiB: number): Promise<void> {
  const [, seenCpus, memory] = await guest.waitFor(/tshyve-lab: cpus=(\d+) memory=(\d+) KiB/);
  expect(Number(seenCpus)).toBe(cpus);
  expect(Number(memory)).toBeGreaterThan(memoryMiB * 1024 - kept(memoryMiB));
  expect(Number(memory)).toBeLessThanOrEqual(memoryMiB * 1024);
  expect(await guest.end(), guest.console + guest.said).toBe(0);
  expect(guest.console).toContain('tshyve-lab: done');
  expect(guest.console).not.toMatch(complaint);
}
