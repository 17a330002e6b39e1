import { describe, expect, it } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import { errorJson, renderDiagnostic, renderError } from '../../../src/report/errors.ts';
import { githubAnnotations } from '../../../src/report/github.ts';
import { colours, noColours } from '../../../src/report/text.ts';

const at = (text: string, marked: string, path = 'flake.yaml') => ({
  file: { path, text },
  range: { start: text.indexOf(marked), end: text.indexOf(marked) + marked.length },
});

describe('renderError', () => {
  it('shows wanted above found in one column, the trail and the hint', () => {
    const error = new FlkError('FLK_NAR_HASH_MISMATCH', 'input greet/base differs from flake.lock', {
      facts: { url: 'git+http://x/base', found: 'sha256-BBB', wanted: 'sha256-AAA' },
      trail: ['flake.yaml:7:3', 'greet', 'greet/base'],
      hint: 'treat it as tampering',
    });
    expect(renderError(error, noColours)).toBe(
      [
        'error[FLK_NAR_HASH_MISMATCH] input greet/base differs from flake.lock',
        '  wanted  sha256-AAA',
        '  found   sha256-BBB',
        '  url     git+http://x/base',
        '  trail  flake.yaml:7:3 → greet → greet/base',
        'hint: treat it as tampering',
      ].join('\n'),
    );
  });

  it('underlines each fault in its line, with the suggestion', () => {
    const text = 'inputs:\n  greet:\n    ulr: git+http://x\n';
    const error = new FlkError('FLK_MANIFEST_INVALID', 'flake.yaml has 1 fault', {
      diagnostics: [{ ...at(text, 'ulr'), message: "unknown key 'ulr'", suggestion: 'url' }],
    });
    expect(renderError(error, noColours)).toBe(
      [
        'error[FLK_MANIFEST_INVALID] flake.yaml has 1 fault',
        '',
        "flake.yaml:3:5: unknown key 'ulr'",
        '  |',
        '3 |     ulr: git+http://x',
        '  |     ^^^',
        '  = url',
        '',
      ].join('\n'),
    );
  });

  it('puts the underline below wide characters, tabs and escape sequences where they are shown', () => {
    const text = '\t日本\u001b[31m: bad';
    expect(renderDiagnostic({ ...at(text, 'bad'), message: 'm' }, noColours)[2]).toBe('1 |     日本: bad');
    expect(renderDiagnostic({ ...at(text, 'bad'), message: 'm' }, noColours)[3]).toBe('  |           ^^^');
  });

  it('shows one caret at the end of the file and in an empty range', () => {
    const file = { path: 'flake.yaml', text: 'a: [' };
    const lines = renderDiagnostic({ file, range: { start: 4, end: 4 }, message: 'm' }, noColours);
    expect(lines[3]).toBe('  |     ^');
    expect(
      renderDiagnostic(
        { file: { path: 'f', text: '' }, range: { start: 0, end: 0 }, message: 'm' },
        noColours,
      )[3],
    ).toBe('  | ^');
  });

  it('hides the password in a line, and leaves everything else in its place', () => {
    const text = 'a: git+https://user:secret@host/x\n';
    const lines = renderDiagnostic({ ...at(text, 'host/x'), message: 'm' }, noColours);
    expect(lines[2]).toBe('1 | a: git+https://***********@host/x');
    expect(lines[3]).toBe(`  | ${' '.repeat(text.indexOf('host'))}^^^^^^`);
  });

  it('marks only the first line of a range over many', () => {
    const text = 'a: |\n  x\n  y\n';
    const lines = renderDiagnostic(
      { file: { path: 'f', text }, range: { start: 3, end: 11 }, message: 'm' },
      noColours,
    );
    expect(lines[3]).toBe('  |    ^');
  });

  it('shows a fault far to the right from near it', () => {
    const text = `${'x'.repeat(5000)}BAD${'y'.repeat(5000)}`;
    const lines = renderDiagnostic({ ...at(text, 'BAD'), message: 'm' }, noColours);
    expect(lines[2]).toMatch(/^1 \| …x{40}BADy+…$/);
    expect(lines[2]!.length).toBeLessThan(170);
    expect(lines[3]!.indexOf('^')).toBe(lines[2]!.indexOf('BAD'));
  });

  it('lets nothing from outside steer the terminal', () => {
    const error = new FlkError('FLK_GIT_REMOTE', 'the server says \u001b]0;x\u0007boo', {
      facts: { found: '\u001b[2J' },
      diagnostics: [{ ...at('a\u001b[2Jb', 'b'), message: '\u001b[1m', suggestion: '\u009b2J' }],
    });
    expect(renderError(error, noColours)).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/);
    expect(renderError(error, colours)).toContain('\u001b[1;31m');
  });
});

describe('errorJson', () => {
  it('counts lines and columns from one, and ends the range on its line', () => {
    const text = 'a: 1\nbéb: [x\ny]\n';
    const error = new FlkError('FLK_MANIFEST_INVALID', 'm', {
      diagnostics: [{ file: { path: 'flake.yaml', text }, range: { start: 10, end: 14 }, message: 'bad' }],
    });
    expect(errorJson(error).error).toEqual({
      code: 'FLK_MANIFEST_INVALID',
      message: 'm',
      facts: {},
      trail: [],
      diagnostics: [{ file: 'flake.yaml', line: 2, column: 6, endColumn: 8, message: 'bad' }],
      hint: '',
    });
  });
});

describe('githubAnnotations', () => {
  it('annotates each fault at its place and escapes what the format reserves', () => {
    const text = 'x: 1\n';
    const error = new FlkError('FLK_MANIFEST_INVALID', 'm', {
      diagnostics: [{ ...at(text, '1', 'a,b:c.yaml'), message: '50%\nof it', suggestion: 'y' }],
    });
    expect(githubAnnotations(error)).toEqual([
      '::error title=FLK_MANIFEST_INVALID,file=a%2Cb%3Ac.yaml,line=1,col=4::50%25%0Aof it%0Ay',
    ]);
  });

  it('cannot be made to speak another command', () => {
    const error = new FlkError('FLK_GIT_REMOTE', 'x\r\n::set-env name=A::b');
    expect(githubAnnotations(error)).toHaveLength(1);
    expect(githubAnnotations(error)[0]).not.toMatch(/[\r\n]/);
  });
});
