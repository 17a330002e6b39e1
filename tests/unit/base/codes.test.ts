import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { type ErrorCode, errorCodes } from '../../../src/base/errors.ts';

const root = join(import.meta.dirname, '../../..');

/** Codes that no test can provoke, and why. */
const unreachable: Partial<Record<ErrorCode, string>> = {};

function textOf(folder: string, except: readonly string[]): string {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && !except.includes(file))
    .map((file) => readFileSync(join(root, folder, file), 'utf8'))
    .join('\n');
}

const tests = textOf('tests', [
  'unit/base/codes.test.ts',
  'unit/base/errors.test.ts',
  'support/commands-page.ts',
]);
const source = textOf('src', ['base/errors.ts']);
const names = (text: string): Set<string> => new Set(text.match(/\bFLK_[A-Z_]+\b/g));

it.each(Object.keys(errorCodes) as ErrorCode[])('%s is thrown somewhere and provoked by a test', (code) => {
  expect(names(source)).toContain(code);
  if (unreachable[code] === undefined) expect(names(tests)).toContain(code);
});

it('nothing is provoked that is said to be unreachable', () => {
  for (const code of Object.keys(unreachable)) expect(names(tests)).not.toContain(code);
});
