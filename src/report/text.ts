/** Text as a terminal takes it: cells instead of characters, nothing that could steer the terminal, sizes and times for people. */

/** Escape sequences (CSI, OSC and the other string kinds, two-character ones), 7-bit and 8-bit. */
const escapes =
  /(?:\u001b\[|\u009b)[0-?]*[ -/]*[@-~]?|(?:\u001b[\]PX^_]|[\u009d\u0090\u0098\u009e\u009f])[^\u0007\u001b\u009c]*(?:\u0007|\u001b\\|\u009c)?|\u001b[ -/]*[0-~]?/g;
/** Control characters, and the marks that reverse the direction of what follows or hide it. */
const controls =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** One line a builder or a server printed, safe to show: of a line redrawn with carriage returns, what was left standing. */
export function cleanLine(line: string): string {
  const text = line.replace(escapes, '').replace(/\r+$/, '');
  return text
    .slice(text.lastIndexOf('\r') + 1)
    .replace(/\t/g, '    ')
    .replace(/\n/g, ' ')
    .replace(controls, '');
}

/** Several lines, each safe to show. */
export function cleanText(text: string): string {
  return text.split('\n').map(cleanLine).join('\n');
}

/** How many columns a string takes on a terminal. */
export function cellWidth(text: string): number {
  let cells = 0;
  for (const character of text) cells += cellsOf(character.codePointAt(0)!);
  return cells;
}

/** Cut to at most `cells` columns, `…` in place of what is missing at the end. */
export function clipEnd(text: string, cells: number): string {
  if (cellWidth(text) <= cells) return text;
  return cells < 1 ? '' : `${takeCells([...text], cells - 1)}…`;
}

/** Cut to at most `cells` columns by leaving out the middle: of an address, both the host and the name matter. */
export function clipMiddle(text: string, cells: number): string {
  if (cellWidth(text) <= cells) return text;
  if (cells < 1) return '';
  const characters = [...text];
  const head = takeCells(characters, Math.floor((cells - 1) / 3));
  const tail = takeCells(characters.reverse(), cells - 1 - cellWidth(head));
  return `${head}…${[...tail].reverse().join('')}`;
}

/** Filled up with spaces to `cells` columns. */
export function padCells(text: string, cells: number): string {
  return text + ' '.repeat(Math.max(0, cells - cellWidth(text)));
}

function takeCells(characters: readonly string[], cells: number): string {
  let taken = '';
  let used = 0;
  for (const character of characters) {
    used += cellsOf(character.codePointAt(0)!);
    if (used > cells) break;
    taken += character;
  }
  return taken;
}

/** East Asian Width (UAX #11) W and F as 2; combining marks, joiners and variation selectors as 0. Ranges, not every character. */
function cellsOf(point: number): 0 | 1 | 2 {
  if (point < 0x300) return point < 0x20 || (point >= 0x7f && point < 0xa0) ? 0 : 1;
  if (zeroWidth.test(String.fromCodePoint(point))) return 0;
  return wide.some(([from, to]) => point >= from && point <= to) ? 2 : 1;
}

const zeroWidth = /^[\p{Mn}\p{Me}\p{Cf}]$/u;
const wide: readonly (readonly [number, number])[] = [
  [0x1100, 0x115f],
  [0x231a, 0x231b],
  [0x23e9, 0x23ec],
  [0x25fd, 0x25fe],
  [0x2614, 0x2615],
  [0x2648, 0x2653],
  [0x26a1, 0x26a1],
  [0x2705, 0x2705],
  [0x274c, 0x274c],
  [0x2795, 0x2797],
  [0x2e80, 0x303e],
  [0x3041, 0x33ff],
  [0x3400, 0x4dbf],
  [0x4e00, 0x9fff],
  [0xa000, 0xa4cf],
  [0xa960, 0xa97f],
  [0xac00, 0xd7a3],
  [0xf900, 0xfaff],
  [0xfe30, 0xfe6f],
  [0xff00, 0xff60],
  [0xffe0, 0xffe6],
  [0x16fe0, 0x18cff],
  [0x1aff0, 0x1b2ff],
  [0x1f004, 0x1f004],
  [0x1f0cf, 0x1f0cf],
  [0x1f18e, 0x1f18e],
  [0x1f191, 0x1f19a],
  [0x1f200, 0x1f320],
  [0x1f32d, 0x1f64f],
  [0x1f680, 0x1f6ff],
  [0x1f900, 0x1f9ff],
  [0x1fa70, 0x1faff],
  [0x20000, 0x3fffd],
];

/** `512 B`, `1.4 MB`: decimal units, three digits. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  for (const unit of ['B', 'kB', 'MB', 'GB', 'TB']) {
    if (value < 999.5 || unit === 'TB')
      return `${unit === 'B' || value >= 99.95 ? Math.round(value) : value.toFixed(1)} ${unit}`;
    value /= 1000;
  }
  return '';
}

/** Milliseconds as `40 ms`, `3.2 s`, `1m04s`, `2h05m`. */
export function formatDuration(ms: number): string {
  if (ms < 950) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  const minutes = Math.floor(seconds / 60);
  const two = (value: number): string => String(value).padStart(2, '0');
  return minutes < 60
    ? `${minutes}m${two(seconds % 60)}s`
    : `${Math.floor(minutes / 60)}h${two(minutes % 60)}m`;
}

/** Colours by meaning. */
export interface Palette {
  strong(text: string): string;
  faint(text: string): string;
  bad(text: string): string;
  warning(text: string): string;
  good(text: string): string;
  place(text: string): string;
}

const sgr =
  (on: string, off: string) =>
  (text: string): string =>
    `\u001b[${on}m${text}\u001b[${off}m`;
const same = (text: string): string => text;

export const colours: Palette = {
  strong: sgr('1', '22'),
  faint: sgr('2', '22'),
  bad: sgr('1;31', '22;39'),
  warning: sgr('1;33', '22;39'),
  good: sgr('32', '39'),
  place: sgr('36', '39'),
};
export const noColours: Palette = {
  strong: same,
  faint: same,
  bad: same,
  warning: same,
  good: same,
  place: same,
};
