import { messageOf } from '../base/index.js';
import type { Context } from './context.js';

interface Row {
  readonly name: string;
  readonly state: string;
  readonly url: string;
  readonly error: string;
}

/** `tshyve ls`: what runs, truthfully, also for damaged machines. */
export async function list(context: Context, options: { quiet?: boolean; json?: boolean }): Promise<void> {
  const names = await context.store.list();
  if (options.quiet === true) {
    for (const name of names) process.stdout.write(`${name}\n`);
    return;
  }
  const rows = await Promise.all(names.map((name) => look(context, name)));
  if (options.json === true) process.stdout.write(`${JSON.stringify(rows, null, 2)}\n`);
  else
    process.stdout.write(
      table([['NAME', 'STATE', 'URL', 'ERRORS'], ...rows.map((row) => [row.name, row.state, row.url, row.error])]),
    );
}

async function look(context: Context, name: string): Promise<Row> {
  try {
    const driver = await context.store.load(name);
    const state = await driver.getState();
    const url = state === 'running' ? await driver.getURL() : '';
    return { name, state, url, error: state === 'running' ? await driver.problem() : '' };
  } catch (error) {
    return { name, state: 'error', url: '', error: messageOf(error) };
  }
}

/** Columns as wide as their widest cell, three spaces apart. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows
    .map(
      (row) =>
        `${row
          .map((cell, column) => cell.padEnd(widths[column] ?? 0))
          .join('   ')
          .trimEnd()}\n`,
    )
    .join('');
}
