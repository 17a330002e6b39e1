/** What kind of difference two files have, told from pairs that real tools leave. */
import { gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { differenceOf, type KnownWords } from '../../../src/build/difference.ts';

const now = 1_795_369_000;
const kind = (before: string | Buffer, after: string | Buffer, known: KnownWords = []): string =>
  differenceOf(bytes(before), bytes(after), known, now).kind;
const bytes = (text: string | Buffer): Buffer =>
  typeof text === 'string' ? Buffer.from(text, 'latin1') : text;

/** A number of seconds amid other bytes, as an object file or an archive has it. */
function withClock(seconds: number, big: boolean): Buffer {
  const buffer = Buffer.from('\x7fELF\x02\x01\x01\0--------tail\0\xff\xfe', 'latin1');
  if (big) buffer.writeUInt32BE(seconds, 9);
  else buffer.writeUInt32LE(seconds, 9);
  return buffer;
}

describe('the kind of a difference', () => {
  it.each([
    ['what date prints', 'built Sun Nov 22 17:55:01 UTC 2026\n', 'built Sun Nov 22 17:55:03 UTC 2026\n'],
    ['what a compiler calls __DATE__', 'on Nov 22 2026 at 23:59:59', 'on Nov 23 2026 at 00:00:01'],
    ['ISO 8601', 'x="2026-11-22T17:55:01.123Z";', 'x="2026-11-22T17:55:03.2Z";'],
    ['seconds', 'STAMP=1795369000\n', 'STAMP=1795369002\n'],
    ['milliseconds', '{"t":1795369000123}', '{"t":1795369000999}'],
    ['the header of a tar archive', 'a.c\0\x000000644\x0015300651350\0', 'a.c\0\x000000644\x0015300651352\0'],
    ['a clock in four bytes', withClock(now, false), withClock(now + 2, false)],
    ['a clock in four bytes, the other way round', withClock(now, true), withClock(now + 300, true)],
  ])('timestamp: %s', (_, before, after) => {
    expect(kind(before, after)).toBe('timestamp');
  });

  it('timestamp: the header of gzip, whatever it packs', () => {
    const [one, other] = [gzipSync('the same'), gzipSync('the same')];
    one.writeUInt32LE(now, 4);
    other.writeUInt32LE(now + 5, 4);
    expect(kind(one, other)).toBe('timestamp');
  });

  it('looks into what is packed by gzip', () => {
    expect(kind(gzipSync('b\na\n'), gzipSync('a\nb\n'))).toBe('order');
    expect(kind(gzipSync('on Nov 22 2026'), gzipSync('on Nov 21 2026'))).toBe('timestamp');
  });

  it('order: lines, names between zeros, bytes of equal count', () => {
    expect(kind('one\ntwo\nthree\n', 'three\none\ntwo\n')).toBe('order');
    expect(kind('libb.so\0liba.so\0', 'liba.so\0libb.so\0')).toBe('order');
    expect(kind('\x01\x02\xff\xfe', '\xff\xfe\x01\x02')).toBe('order');
  });

  it('machine: words that were made to differ', () => {
    expect(
      kind('built on localhost by 1000', 'built on flk-1 by 1001', [
        ['localhost', 'flk-1'],
        ['1000', '1001'],
      ]),
    ).toBe('machine');
    expect(kind('built on localhost', 'built on flk-1')).not.toBe('machine');
  });

  it('path: folders with other names', () => {
    expect(kind('from /tmp/tmp.aB3/x.c', 'from /tmp/tmp.Zz9/x.c')).toBe('path');
  });

  it('random: identifiers', () => {
    expect(kind('id 3f2504e0-4f89-11d3-9a0c-0305e82c3301', 'id 9a0c0305-4f89-11d3-8a0c-0305e82c33ff')).toBe(
      'random',
    );
    expect(kind('seed=deadbeef01', 'seed=0badcafe99')).toBe('random');
  });

  it('content: what is none of these', () => {
    expect(kind('hello', 'world')).toBe('content');
    expect(kind('answer 41', 'answer 42')).toBe('content');
    expect(kind('', 'x')).toBe('content');
    expect(kind(withClock(now, false), withClock(12, false))).toBe('content');
  });
});

it('shows the place and what stands there, fit to be printed', () => {
  expect(differenceOf(bytes('at host-a!\n'), bytes('at host-b!\n'), [], now)).toEqual({
    kind: 'content',
    offset: 8,
    before: '“at host-a!”',
    after: '“at host-b!”',
  });
  const binary = differenceOf(bytes('\0\x1b[31m'), bytes('\0\x00'), [], now);
  expect([binary.before, binary.after]).toEqual(['bytes 1b5b33316d', 'bytes 00']);
  expect(differenceOf(bytes('same'), bytes('same and more'), [], now)).toMatchObject({
    offset: 4,
    before: 'the end',
  });
});

it('finds the first byte that differs in large files', () => {
  const before = Buffer.alloc(3_000_001, 'x');
  for (const place of [0, 4095, 4096, 4097, 3_000_000]) {
    const after = Buffer.from(before);
    after[place] = 0;
    expect(differenceOf(before, after, [], now).offset).toBe(place);
  }
});
