// Puts the figures of several runs of main.ts together: a table on stdout, JSON in a file.
// Usage: table.cjs REPORT.json FIGURES.json...
import { readFileSync, writeFileSync } from 'node:fs';

import { type Competitor, type Figures, competitors } from './figures.js';

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const high = sorted[middle] ?? NaN;
  return sorted.length % 2 === 1 ? high : ((sorted[middle - 1] ?? NaN) + high) / 2;
}

const [report = '', ...paths] = process.argv.slice(2);
const all: Figures = {};
for (const path of paths) {
  for (const [name, row] of Object.entries(JSON.parse(readFileSync(path, 'utf8')) as Figures)) {
    const sum = (all[name] ??= { core: [], microvm: [], q35: [] });
    for (const competitor of competitors) sum[competitor].push(...row[competitor]);
  }
}
// Beside the median the best of all: what disturbs a busy host makes figures worse, never better.
interface Cell {
  readonly median: number;
  readonly best: number;
  readonly values: readonly number[];
}
const lines = [
  'figure: median, best'.padEnd(42) + competitors.map((name) => name.padStart(22)).join('') + '  core/microvm',
];
const cells: Record<string, Record<Competitor, Cell>> = {};
for (const [name, row] of Object.entries(all)) {
  const lessIsBetter = /ms$|KiB$/.test(name);
  const cell = (values: readonly number[]): Cell => ({
    median: median(values),
    best: lessIsBetter ? Math.min(...values) : Math.max(...values),
    values,
  });
  const line = { core: cell(row.core), microvm: cell(row.microvm), q35: cell(row.q35) };
  cells[name] = line;
  const ratio = (of: 'median' | 'best') => (line.core[of] / line.microvm[of]).toFixed(2).padStart(7);
  const text = competitors.map(
    (competitor) =>
      `${line[competitor].median.toFixed(1).padStart(12)}${line[competitor].best.toFixed(1).padStart(10)}`,
  );
  lines.push(name.padEnd(42) + text.join('') + ratio('median') + ratio('best'));
}
console.log(lines.join('\n'));
writeFileSync(report, JSON.stringify(cells, null, 2));
