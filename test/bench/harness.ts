/** What a benchmark gives back: measured series, what they are compared with, and the aims of the issue. */

/** One measured variant; a value per round. */
export interface Series {
  readonly name: string;
  readonly values: readonly number[];
}

/** A limit for one series: for its median, or for its ratio to the baseline. */
export interface Aim {
  readonly series: string;
  readonly of: 'median' | 'ratio';
  readonly max: number;
}

/** Series of one unit that belong side by side. */
export interface Comparison {
  readonly title: string;
  readonly unit: 'ms' | 's' | 'MiB' | 'Mbit/s';
  readonly series: readonly Series[];
  /** Name of the series that ratios refer to, measured in the same rounds. */
  readonly baseline?: string;
  readonly aims?: readonly Aim[];
}

export interface Statistics {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** @throws RangeError for no values */
export function statistics(values: readonly number[]): Statistics {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const [min, upper, max] = [sorted[0], sorted[middle], sorted.at(-1)];
  if (min === undefined || upper === undefined || max === undefined) throw new RangeError('no values were measured');
  const lower = sorted[middle - 1];
  return { median: sorted.length % 2 === 0 && lower !== undefined ? (lower + upper) / 2 : upper, min, max };
}

/** A variant measures itself once and returns its values by series name, so that one run can feed several series. */
export type Variant = () => Promise<Readonly<Record<string, number>>>;

/**
 * Runs all variants once per round, beginning with another one each time, so that a change of the machine's load hits
 * all of them alike.
 * @param options.warmup rounds that are run first and not counted: they fill the page cache
 * @param options.budgetMs no round begins later than this after the first, so that a busy machine gets fewer rounds
 * instead of an endless run
 * @returns the values by series name
 */
export async function interleave(
  variants: readonly Variant[],
  options: { rounds: number; warmup: number; budgetMs: number; onRound?: (round: number) => void },
): Promise<ReadonlyMap<string, readonly number[]>> {
  const values = new Map<string, number[]>();
  const deadline = performance.now() + options.budgetMs;
  for (let round = -options.warmup; round < options.rounds; round++) {
    if (round > 0 && performance.now() > deadline) break;
    if (round >= 0) options.onRound?.(round + 1);
    for (let turn = 0; turn < variants.length; turn++) {
      const variant = variants[(turn + round + options.warmup) % variants.length];
      const measured = (await variant?.()) ?? {};
      if (round < 0) continue;
      for (const [name, value] of Object.entries(measured)) values.set(name, [...(values.get(name) ?? []), value]);
    }
  }
  return values;
}

/** Picks series by name, in this order. @throws RangeError for one that was not measured */
export function pick(values: ReadonlyMap<string, readonly number[]>, names: readonly string[]): Series[] {
  return names.map((name) => {
    const found = values.get(name);
    if (found === undefined) throw new RangeError(`"${name}" was not measured`);
    return { name, values: found };
  });
}

/** A comparison with everything computed: what the table shows and the JSON file holds. */
export interface Result {
  readonly title: string;
  readonly unit: string;
  readonly baseline: string | null;
  readonly rows: readonly (Statistics & {
    readonly name: string;
    readonly values: readonly number[];
    /** Median over the baseline's median; null without a baseline and for the baseline itself. */
    readonly ratio: number | null;
    readonly aim: { readonly of: Aim['of']; readonly max: number; readonly met: boolean } | null;
  })[];
}

export function evaluate(comparison: Comparison): Result {
  const { title, unit, series, baseline, aims = [] } = comparison;
  const base = baseline === undefined ? undefined : pick(byName(series), [baseline])[0];
  const baseMedian = base === undefined ? undefined : statistics(base.values).median;
  const rows = series.map(({ name, values }) => {
    const figures = statistics(values);
    const ratio = baseMedian === undefined || name === baseline ? null : figures.median / baseMedian;
    const aim = aims.find((candidate) => candidate.series === name);
    const value = aim?.of === 'ratio' ? ratio : figures.median;
    const met = aim !== undefined && value !== null && value <= aim.max;
    return { name, values, ...figures, ratio, aim: aim === undefined ? null : { of: aim.of, max: aim.max, met } };
  });
  return { title, unit, baseline: baseline ?? null, rows };
}

export function formatTable(result: Result): string {
  const digits = result.unit === 's' ? 2 : 1;
  const width = Math.max(...result.rows.map((row) => row.name.length));
  const number = (value: number) => value.toFixed(digits).padStart(8);
  const lines = result.rows.map((row) => {
    const ratio = result.baseline === null ? '' : (row.ratio?.toFixed(2) ?? '1').padStart(7);
    const limit =
      row.aim === null ? '' : `${row.aim.of === 'ratio' ? '' : `${result.unit} `}${row.aim.met ? 'met' : 'MISSED'}`;
    const aim = row.aim === null ? '' : `   aim <= ${String(row.aim.max)} ${limit}`;
    return `  ${row.name.padEnd(width)} ${number(row.median)} ${number(row.min)} ${number(row.max)}${ratio}${aim}`;
  });
  const head = `  ${''.padEnd(width)} ${'median'.padStart(8)} ${'min'.padStart(8)} ${'max'.padStart(8)}${result.baseline === null ? '' : '  ratio'}`;
  const rounds = result.rows[0]?.values.length ?? 0;
  return [`${result.title} (${result.unit}, ${String(rounds)} rounds)`, head, ...lines].join('\n');
}

function byName(series: readonly Series[]): Map<string, readonly number[]> {
  return new Map(series.map(({ name, values }) => [name, values]));
}
