import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  cellWidth,
  cleanLine,
  clipEnd,
  clipMiddle,
  formatBytes,
  formatDuration,
  padCells,
} from '../../../src/report/text.ts';

describe('cleanLine', () => {
  it.each([
    ['colours', '\u001b[1;31mred\u001b[0m', 'red'],
    ['an unfinished sequence', 'a\u001b[12', 'a'],
    ['a window title', '\u001b]0;owned\u0007text', 'text'],
    ['a title ended by ST', '\u001b]0;owned\u001b\\text', 'text'],
    ['a hyperlink', '\u001b]8;;http://x\u001b\\link\u001b]8;;\u001b\\', 'link'],
    ['8-bit CSI', 'a\u009b31mb', 'ab'],
    ['a device query', '\u001b[c\u001b[6n\u001bZ', ''],
    ['bell, backspace, NUL', 'a\u0007\b\u0000b', 'ab'],
    ['a redrawn line', '10%\r50%\r100%', '100%'],
    ['a Windows line end', 'text\r', 'text'],
    ['a tab', 'a\tb', 'a    b'],
    ['a right-to-left override', 'a\u202eb', 'ab'],
  ])('takes away %s', (_, line, clean) => {
    expect(cleanLine(line)).toBe(clean);
  });

  it('leaves nothing that steers a terminal, whatever it is given', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.oneof(
            fc.constantFrom('\u001b', '[', ']', '\u0007', '\r', '\n', '\u009b', '0', 'm', ';'),
            fc.string(),
          ),
        ),
        (parts) => {
          expect(cleanLine(parts.join(''))).not.toMatch(/[\u0000-\u001f\u007f-\u009f]/);
        },
      ),
    );
  });
});

describe('cells', () => {
  it.each([
    ['plain', 5],
    ['日本', 4],
    ['e\u0301', 1],
    ['👍🏽', 4],
    ['a\u200db', 2],
    ['ｆｕ', 4],
    ['é', 1],
  ])('%s takes %i', (text, cells) => {
    expect(cellWidth(text)).toBe(cells);
  });

  it('clipping never takes more cells than there are, and leaves what fits alone', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), fc.integer({ min: 0, max: 40 }), (text, cells) => {
        for (const clip of [clipEnd, clipMiddle]) {
          const clipped = clip(text, cells);
          expect(cellWidth(clipped)).toBeLessThanOrEqual(cells);
          if (cellWidth(text) <= cells) expect(clipped).toBe(text);
        }
      }),
    );
  });

  it('keeps the host and the name of an address', () => {
    expect(clipMiddle('git+https://git.example.org/acme/libraries/greet', 24)).toBe(
      'git+htt…/libraries/greet',
    );
  });

  it('pads wide characters by their cells', () => {
    expect(padCells('日', 4)).toBe('日  ');
  });
});

it.each([
  [0, '0 B'],
  [999, '999 B'],
  [1000, '1.0 kB'],
  [99_940, '99.9 kB'],
  [99_960, '100 kB'],
  [999_499, '999 kB'],
  [999_500, '1.0 MB'],
  [4_200_000_000, '4.2 GB'],
  [9e15, '9000 TB'],
])('%i bytes are %s', (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text);
});

it.each([
  [0, '0 ms'],
  [949, '949 ms'],
  [950, '0.9 s'],
  [59_900, '59.9 s'],
  [59_960, '1m00s'],
  [125_000, '2m05s'],
  [3_600_000, '1h00m'],
  [7_500_000, '2h05m'],
])('%i ms are %s', (ms, text) => {
  expect(formatDuration(ms)).toBe(text);
});
