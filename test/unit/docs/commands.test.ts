import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

import type { Command } from 'commander';
import { describe, expect, test } from 'vitest';

import { buildProgram } from '../../../driver/cli/program.js';
import { TshyveDriver } from '../../../driver/machine/index.js';

const root = resolve(import.meta.dirname, '../../..');
const read = (document: string) => readFileSync(join(root, document), 'utf8');

/** The lines of a document's shell blocks, without comments. */
function shellLines(document: string): string[] {
  const blocks = [...read(document).matchAll(/^```sh\n(.*?)^```$/gms)].map((match) => match[1] ?? '');
  return blocks
    .flatMap((block) => block.split('\n').map((line) => line.replace(/(^|\s)#.*/, '').trim()))
    .filter(Boolean);
}

/** The simple commands of a line, also those inside of `$(…)` and `<(…)`, as lists of words. */
function commandsOf(line: string): string[][] {
  const inner = [...line.matchAll(/[$<]\(([^)]*)\)/g)].map((match) => match[1] ?? '');
  const outer = line.replace(/"?[$<]\([^)]*\)"?/g, 'SUBSTITUTED').split(/;|&&|\||>/);
  return [...inner, ...outer].map((text) => {
    const words = text.trim().split(/\s+/);
    return words.slice(words.findIndex((word) => !/^[A-Z_]+=/.test(word)));
  });
}

/** Parses a command line of ours and runs nothing. @throws what commander says of it */
async function parse(args: readonly string[]): Promise<void> {
  const program = buildProgram('0.0.0');
  const disarm = (command: Command) => {
    if (command.commands.length === 0) command.action(() => undefined);
    command.exitOverride((error) => {
      throw error;
    });
    command.configureOutput({ writeErr: () => undefined, writeOut: () => undefined });
    command.commands.forEach(disarm);
  };
  disarm(program);
  await program.parseAsync([...args], { from: 'user' });
}

const documents = [
  'README.md',
  'docs/usage.md',
  'docs/minikube.md',
  'docs/macos.md',
  'docs/how-it-works.md',
  'docs/troubleshooting.md',
];

describe.each(documents)('%s', (document) => {
  const lines = shellLines(document);

  test('has commands', () => {
    expect(lines.length).toBeGreaterThan(1);
  });

  test.each(lines)('%s', async (line) => {
    for (const [program = '', ...args] of commandsOf(line)) {
      if (program === 'tshyve' || args[0] === 'tshyve') {
        await parse(program === 'tshyve' ? args : args.slice(1)).catch((error: unknown) => {
          if ((error as { code?: unknown }).code !== 'commander.helpDisplayed') throw error;
        });
      } else if (program === 'docker-machine') {
        const known = new TshyveDriver('', '').createFlags().map((flag) => `--${flag.name}`);
        for (const flag of args.filter((word) => word.startsWith('--tshyve-'))) expect(known).toContain(flag);
      } else if (program.startsWith('./')) {
        expect(execFileSync(join(root, program), ['--help'], { encoding: 'utf8' })).toContain('Usage:');
      }
    }
  });
});

test('an unknown option or sub-command would be noticed', async () => {
  await expect(parse(['create', 'dev', '--no-such-option'])).rejects.toThrow('unknown option');
  await expect(parse(['no-such-command'])).rejects.toThrow('unknown command');
});

test('README leads to every document', () => {
  const links = [...read('README.md').matchAll(/\]\((docs\/[^)]+)\)/g)].map((match) => match[1]);
  expect(links.sort()).toEqual(documents.filter((name) => name.startsWith('docs/')).sort());
});

test('the user-data for cloud-init is what is tested', () => {
  expect(read('docs/usage.md')).toContain(`\n${read('test/firmware/user-data')}\`\`\`\n`);
});
