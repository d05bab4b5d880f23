// Sums up vitest's JSON reports, and those in the same form, of a folder: one line "PASSED FAILED SKIPPED", then each failed
// test with the first lines of its error. Usage: node scripts/sum-up-reports.mjs FOLDER
import { readFileSync, readdirSync } from 'node:fs';
import { join, relative } from 'node:path';

const LINES = 6;
const [folder = '.'] = process.argv.slice(2);
const counts = [0, 0, 0];
const failures = [];
for (const file of readdirSync(folder).filter((name) => name.endsWith('.json'))) {
  const report = JSON.parse(readFileSync(join(folder, file), 'utf8'));
  counts[0] += report.numPassedTests;
  counts[1] += report.numFailedTests;
  counts[2] += report.numPendingTests;
  for (const { name, message, assertionResults } of report.testResults ?? []) {
    const failed = assertionResults.filter(({ status }) => status === 'failed');
    for (const { fullName, failureMessages } of failed) tell(`${relative('.', name)}: ${fullName}`, failureMessages);
    // A file that could not be loaded, or whose hooks failed.
    if (message) tell(relative('.', name), [message]);
  }
}
console.log(counts.join(' '));
console.log(failures.join('\n'));

function tell(what, messages) {
  const lines = messages.join('\n').split('\n').slice(0, LINES);
  failures.push([`FAILED ${what}`, ...lines.map((line) => `    ${line}`)].join('\n'));
}
