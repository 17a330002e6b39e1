import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GitAttributes } from '../../../src/formats/git-attributes.ts';
import { withCode } from '../../support/errors.ts';
import { git, gitEnvironment } from '../../support/repositories.ts';
import { temporaryFolder } from '../../support/temp.ts';

const attributes = (root: string, below: Readonly<Record<string, string>> = {}): GitAttributes =>
  new GitAttributes(new Map([['', root], ...Object.entries(below)]));

describe('attributes', () => {
  it.each<[string, string, unknown]>([
    ['a x', 'a', true],
    ['a x', 'b/a', true],
    ['/a x', 'b/a', undefined],
    ['a -x', 'a', false],
    ['a x=y', 'a', 'y'],
    ['a x\na !x', 'a', undefined],
    ['a x\n* -x', 'a', false],
    ['* -x\na x', 'a', true],
    ['*.bin x', 'deep/down/f.bin', true],
    ['docs/* x', 'docs/a', true],
    ['docs/* x', 'docs/a/b', undefined],
    ['docs/** x', 'docs/a/b', true],
    ['**/b x', 'a/b', true],
    ['a/**/b x', 'a/b', true],
    ['a/**/b x', 'a/c/d/b', true],
    ['a/**/b x', 'ab', undefined],
    ['docs/ x', 'docs', undefined],
    ['docs/ x', 'docs/a', undefined],
    ['"a b" x', 'a b', true],
    ['a\\*b x', 'a*b', true],
    ['a\\*b x', 'aab', undefined],
    ['[a-c]? x', 'bz', true],
    ['[!a-c]? x', 'bz', undefined],
    ['[[:digit:]]x x', '7x', true],
    ['a[ x', 'a[', undefined],
    ['# a x', 'a', undefined],
    ['!a x', 'a', undefined],
    ['a y', 'a', undefined],
    ['[attr]m x=1\na m', 'a', '1'],
    ['a binary', 'a', undefined],
  ])('%j give %j the value %j', (text, path, wanted) => {
    expect(attributes(text).value(path, 'x')).toBe(wanted);
  });

  it('of the nearest folder count', () => {
    const all = attributes('* x\n', { a: 'f -x\n/g x=deep', 'a/b': 'other x' });
    expect(['f', 'a/f', 'a/b/f', 'a/g', 'a/b/g'].map((path) => all.value(path, 'x'))).toEqual([
      true,
      false,
      false,
      'deep',
      true,
    ]);
  });

  it('take no macros from a folder below', () => {
    expect(attributes('', { a: '[attr]m x\nf m' }).value('a/f', 'x')).toBeUndefined();
  });

  it('take no pattern long, however many stars it has', () => {
    const hostile = attributes(`${'a*'.repeat(900)}b x`);
    expect(hostile.value('a'.repeat(255), 'x')).toBeUndefined();
  });

  it('are limited in number', () => {
    expect(() => attributes('a x\n'.repeat(100_001))).toThrow(withCode('FLK_LIMIT'));
  });

  it('are those that git finds', () => {
    const folder = temporaryFolder();
    git(folder, 'init', '-q');
    const names = fc.array(fc.constantFrom('a', 'b', 'ab', 'c.x'), { minLength: 1, maxLength: 4 });
    const piece = fc.constantFrom('a', 'b', '*', '**', '/', '?', '[ab]', '[!a]', '.x', '\\a');
    const line = fc
      .tuple(fc.array(piece, { minLength: 1, maxLength: 6 }), fc.constantFrom('x', '-x', '!x', 'x=v'))
      .map(([pieces, change]) => `${pieces.join('')} ${change}`)
      // Patterns for folders depend on what lies on the disk; and git alone takes `/a**` for `/a` and anything below.
      .filter((text) => !/\/ |^!|^\[attr\]|[^/ ]\*\*/.test(text));
    const file = fc.array(line, { maxLength: 4 }).map((lines) => lines.join('\n'));
    fc.assert(
      fc.property(file, file, fc.array(names, { minLength: 5, maxLength: 10 }), (root, below, paths) => {
        mkdirSync(join(folder, 'a'), { recursive: true });
        writeFileSync(join(folder, '.gitattributes'), root);
        writeFileSync(join(folder, 'a', '.gitattributes'), below);
        const asked = paths.map((parts) => parts.join('/'));
        const answer = execFileSync('git', ['check-attr', '-z', 'x', '--', ...asked], {
          cwd: folder,
          env: gitEnvironment,
          encoding: 'utf8',
        }).split('\0');
        const all = attributes(root, { a: below });
        for (const [i, path] of asked.entries()) {
          const wanted = { set: true, unset: false, unspecified: undefined, v: 'v' }[answer[3 * i + 2]!];
          expect(all.value(path, 'x'), path).toBe(wanted);
        }
      }),
      { numRuns: 150 },
    );
  });
});
