/**
 * Two files that should be equal and are not: what kind of difference it is, told from their bytes. A guess that is right for what
 * builds usually leak, and honest where it does not know.
 */
import { gunzipSync } from 'node:zlib';

/**
 * `timestamp`: dates and clock readings. `machine`: the host's name, the user, the number of cores. `order`: the same parts in
 * another order. `path`: folders with other names, as of temporary files. `random`: digits of no meaning, as identifiers and keys
 * have them. `content`: none of these.
 */
export type DifferenceKind = 'timestamp' | 'machine' | 'order' | 'path' | 'random' | 'content';

export interface Difference {
  readonly kind: DifferenceKind;
  /** Where the first byte differs. */
  readonly offset: number;
  /** What stands there in the one and in the other, fit to be printed. */
  readonly before: string;
  readonly after: string;
}

/** What usually helps, one line. */
export const differenceHints: Readonly<Record<DifferenceKind, string>> = {
  timestamp: 'timestamps: take $SOURCE_DATE_EPOCH instead of the clock; gzip -n, ar D, tar --mtime=@1',
  machine: 'the machine: let the build not record the host’s name, the user or the number of cores',
  order: 'order: sort what is listed: LC_ALL=C sort, tar --sort=name, sorted(os.listdir())',
  path: 'paths: use fixed names instead of mktemp; -ffile-prefix-map for compilers',
  random: 'random: give it a seed: -frandom-seed=NAME, PYTHONHASHSEED=0, a fixed identifier',
  content: '',
};

/** Words of the machine that were different on purpose, in the one build and the other: `['localhost', 'rebuild-1']`. */
export type KnownWords = readonly (readonly [string, string])[];

/** Seconds since 1970 in which a build of today may have run; the second counts from the middle of this range. */
const day = 86_400;
const maxInflated = 64 * 2 ** 20;

/** Compares two files that differ. `now`: seconds since 1970. */
export function differenceOf(before: Buffer, after: Buffer, known: KnownWords, now: number): Difference {
  const offset = firstDifference(before, after);
  const shown = { offset, before: excerpt(before, offset), after: excerpt(after, offset) };
  return { kind: kindOf(before, after, known, now, 0), ...shown };
}

function kindOf(
  before: Buffer,
  after: Buffer,
  known: KnownWords,
  now: number,
  depth: number,
): DifferenceKind {
  const inner = depth < 2 ? inflated(before, after) : undefined;
  // What stands before the packed bytes is the time (RFC 1952).
  if (inner?.[0].equals(inner[1])) return 'timestamp';
  if (inner) return kindOf(...inner, known, now, depth + 1);
  const [one, other] = [before.toString('latin1'), after.toString('latin1')];
  const same = (change: (text: string, second: boolean) => string): boolean =>
    change(one, false) === change(other, true);
  const machine = (text: string, second: boolean): string =>
    known.reduce((left, pair) => left.replaceAll(pair[second ? 1 : 0], '\u0001'), text);
  if (known.length > 0 && same(machine)) return 'machine';
  if (same(withoutTimes) || onlyClocks(before, after, now)) return 'timestamp';
  if (same(sortedLines) || (before.length === after.length && sameBytes(before, after))) return 'order';
  if (same(withoutFolders)) return 'path';
  if (same(withoutDigits)) return 'random';
  return 'content';
}

function inflated(before: Buffer, after: Buffer): [Buffer, Buffer] | undefined {
  const packed = (bytes: Buffer): boolean => bytes[0] === 0x1f && bytes[1] === 0x8b;
  if (!packed(before) || !packed(after)) return undefined;
  try {
    const options = { maxOutputLength: maxInflated };
    return [gunzipSync(before, options), gunzipSync(after, options)];
  } catch {
    return undefined;
  }
}

const months = 'Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec';
const days = 'Mon|Tue|Wed|Thu|Fri|Sat|Sun';

/** Seconds since 1970 with their fractions, in tens or (as tar has them) in eights; dates and times of day as people write them. */
const times = new RegExp(
  [
    String.raw`\b1[4-9]\d{8}(?:\d{3}|\d{6}|\d{9})?(?:\.\d+)?\b`,
    String.raw`\b1[2-7][0-7]{9}\b`,
    String.raw`\b(?:${days})[a-z]*,? `,
    String.raw`\b\d{1,2}[ -](?:${months})[a-z]*[ -]\d{4}\b`,
    String.raw`\b(?:${months})[a-z]* +\d{1,2}(?:,? \d{4})?\b`,
    String.raw`\b20\d\d-?[01]\d-?[0-3]\d`,
    String.raw`(?:T|\b)[0-2]?\d:[0-5]\d(?::[0-6]\d(?:[.,]\d+)?)?(?: ?[AP]M)?`,
  ].join('|'),
  'g',
);

const withoutTimes = (text: string): string => text.replace(times, '\u0001');
const withoutFolders = (text: string): string => text.replace(/(?:\/[\w.+@%~-]+){2,}/g, '\u0001');
/** Of hexadecimal, or of base64 that is long enough to be no word. */
const withoutDigits = (text: string): string =>
  text.replace(/[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|[0-9a-fA-F]{8,}|[\w+/=-]{22,}|0\.\d{6,}/g, '\u0001');
const sortedLines = (text: string): string =>
  text
    .split(/[\n\0]/)
    .sort()
    .join('\n');

function sameBytes(before: Buffer, after: Buffer): boolean {
  const counts = new Int32Array(256);
  for (const byte of before) counts[byte]!++;
  for (const byte of after) counts[byte]!--;
  return counts.every((count) => count === 0);
}

/** Whether every place that differs is a number of seconds, in four bytes of either order, as headers hold them. */
function onlyClocks(before: Buffer, after: Buffer, now: number): boolean {
  if (before.length !== after.length) return false;
  const isClock = (bytes: Buffer, at: number): boolean =>
    [bytes.readUInt32LE(at), bytes.readUInt32BE(at)].some((value) => Math.abs(value - now) < day);
  for (let at = firstDifference(before, after); at < before.length; ) {
    const start = [at, at - 1, at - 2, at - 3].find(
      (start) => start >= 0 && start + 4 <= before.length && isClock(before, start) && isClock(after, start),
    );
    if (start === undefined) return false;
    at = start + 4;
    while (at < before.length && before[at] === after[at]) at++;
  }
  return true;
}

function firstDifference(before: Buffer, after: Buffer): number {
  const length = Math.min(before.length, after.length);
  const block = 4096;
  let at = 0;
  while (
    at < length &&
    before.compare(after, at, Math.min(at + block, after.length), at, Math.min(at + block, before.length)) ===
      0
  )
    at += block;
  while (at < length && before[at] === after[at]) at++;
  return Math.min(at, length);
}

/** The word or the bytes around a place. */
function excerpt(bytes: Buffer, offset: number): string {
  let from = offset;
  while (from > 0 && offset - from < 24 && isPrintable(bytes[from - 1])) from--;
  let to = offset;
  while (to < bytes.length && to - offset < 24 && isPrintable(bytes[to])) to++;
  if (to > offset) return `“${bytes.toString('latin1', from, to).trim()}”`;
  const next = bytes.subarray(offset, offset + 8).toString('hex');
  return next === '' ? 'the end' : `bytes ${next}`;
}

const isPrintable = (byte: number | undefined): boolean => byte !== undefined && byte >= 0x20 && byte < 0x7f;
