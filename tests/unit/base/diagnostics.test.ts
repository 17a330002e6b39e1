import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Findings, nearest, placeOf, positionOf } from '../../../src/base/diagnostics.ts';

describe('positionOf', () => {
  const table: readonly [what: string, text: string, offset: number, line: number, column: number][] = [
    ['the start', 'abc', 0, 1, 1],
    ['the end', 'abc', 3, 1, 4],
    ['past the end', 'abc', 99, 1, 4],
    ['before the start', 'abc', -5, 1, 1],
    ['an empty text', '', 0, 1, 1],
    ['a later line', 'ab\ncd', 4, 2, 2],
    ['a line after CRLF', 'ab\r\ncd', 5, 2, 2],
    ['the newline itself', 'ab\ncd', 2, 1, 3],
    ['behind characters outside the basic plane', '👋👋x', 4, 1, 3],
    ['behind combining marks, each counted', 'e\u0301x', 2, 1, 3],
    ['behind a tab, counted as one', '\tx', 1, 1, 2],
  ];
  for (const [what, text, offset, line, column] of table) {
    it(what, () => expect(positionOf(text, offset)).toEqual({ line, column }));
  }

  it('counts lines and columns as splitting the text does', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom('a', '\n', '\r\n', '👋', '\t')), fc.nat(50), (parts, count) => {
        const before = parts.slice(0, count).join('');
        const lines = before.split('\n');
        expect(positionOf(parts.join(''), before.length)).toEqual({
          line: lines.length,
          column: [...lines.at(-1)!].length + 1,
        });
      }),
    );
  });
});

it('placeOf names file, line and column', () => {
  const file = { path: 'flake.yaml', text: 'a: 1\nb: 2\n' };
  expect(placeOf({ file, range: { start: 5, end: 6 } })).toBe('flake.yaml:2:1');
});

describe('nearest', () => {
  const keys = ['buildInputs', 'buildPhase', 'version', 'src', 'env', 'outputs'];
  const table: readonly [word: string, found: string | undefined][] = [
    ['buildinputs', 'buildInputs'],
    ['bulidInputs', 'buildInputs'],
    ['buildInput', 'buildInputs'],
    ['verison', 'version'],
    ['scr', 'src'],
    ['ouptuts', 'outputs'],
    ['completely', undefined],
    ['x', undefined],
    ['', undefined],
    ['a'.repeat(10_000), undefined],
  ];
  for (const [word, found] of table) {
    it(`${word.slice(0, 20)} → ${found}`, () => expect(nearest(word, keys)).toBe(found));
  }
  it('takes the first of equals, and an exact word before all', () => {
    expect(nearest('ac', ['ab', 'ad'])).toBe('ab');
    expect(nearest('ad', ['ab', 'ad'])).toBe('ad');
  });
});

describe('Findings', () => {
  const file = { path: 'flake.yaml', text: 'abc\ndef\n' };

  it('lists in the order of the text, one per place', () => {
    const findings = new Findings(file);
    findings.add({ start: 4, end: 5 }, 'second', 'do that');
    findings.add({ start: 0, end: 1 }, 'first');
    findings.add({ start: 4, end: 5 }, 'shadow');
    expect(findings.count).toBe(2);
    expect(findings.list()).toEqual([
      { file, range: { start: 0, end: 1 }, message: 'first' },
      { file, range: { start: 4, end: 5 }, message: 'second', suggestion: 'do that' },
    ]);
  });

  it('ends where nobody would read on, and hands no escape sequence to a terminal', () => {
    const findings = new Findings(file);
    for (let start = 0; start < 1000; start++) findings.add({ start, end: start }, '\u001b[31mred');
    expect(findings.full).toBe(true);
    expect(findings.list()).toHaveLength(100);
    expect(findings.list()[0]?.message).toBe('\ufffd[31mred');
  });
});
