import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { hashTree, NarWriter, type TreeSink } from '../../../src/formats/nar.ts';
import { NarParser } from '../../../src/formats/nar-parser.ts';
import {
  anyNode,
  directory,
  file,
  type Node,
  narOf,
  symlink,
  TreeCollector,
  treeFrom,
} from '../../support/trees.ts';

const ignore: TreeSink = {
  directory: () => {},
  entry: () => {},
  endDirectory: () => {},
  file: () => {},
  data: () => {},
  endFile: () => {},
  symlink: () => {},
};

function parse(nar: Buffer, chunk = nar.length): Node {
  const collector = new TreeCollector();
  const parser = new NarParser(collector);
  for (let at = 0; at < nar.length; at += chunk) {
    // A copy that is spoilt afterwards: the parser may keep nothing of a chunk.
    const piece = Buffer.from(nar.subarray(at, at + chunk));
    parser.push(piece);
    piece.fill(0xaa);
  }
  parser.end();
  return collector.root;
}

const invalid = expect.objectContaining({ code: 'FLK_NAR_INVALID' });
const internal = expect.objectContaining({ code: 'FLK_INTERNAL' });

/** NAR strings, to write hostile archives with. */
const words = (...texts: (string | Buffer)[]): Buffer =>
  Buffer.concat(
    texts.map((text) => {
      const bytes = Buffer.from(text);
      const encoded = Buffer.alloc(8 + Math.ceil(bytes.length / 8) * 8);
      encoded.writeBigUInt64LE(BigInt(bytes.length));
      bytes.copy(encoded, 8);
      return encoded;
    }),
  );
const empty = ['(', 'type', 'regular', 'contents', '', ')'];
const entry = (name: string | Buffer): (string | Buffer)[] => [
  'entry',
  '(',
  'name',
  name,
  'node',
  ...empty,
  ')',
];
const folderOf = (...names: (string | Buffer)[]): Buffer =>
  words('nix-archive-1', '(', 'type', 'directory', ...names.flatMap(entry), ')');

const sample = directory({
  a: directory({ empty: directory(), run: file('#!/bin/sh\n', true), text: file('x'.repeat(1001)) }),
  'a.b': file(''),
  link: symlink('../target with spaces'),
  '\xff\n': file('name of bytes'),
});

describe('NAR', () => {
  it('reads back what it writes, whatever the chunks', () => {
    fc.assert(
      fc.property(anyNode, fc.integer({ min: 1, max: 64 }), (node, chunk) => {
        const nar = narOf(node);
        expect(parse(nar, chunk)).toEqual(node);
      }),
    );
  });

  it('reads an archive cut at any byte', () => {
    const nar = narOf(sample);
    for (let cut = 0; cut <= nar.length; cut++) {
      const collector = new TreeCollector();
      const parser = new NarParser(collector);
      parser.push(nar.subarray(0, cut));
      parser.push(nar.subarray(cut));
      parser.end();
      if (cut % 97 === 0) expect(collector.root).toEqual(sample);
    }
  });

  it('refuses an archive that ends early, at any byte', () => {
    const nar = narOf(sample);
    for (let cut = 0; cut < nar.length; cut++) {
      const parser = new NarParser(ignore);
      parser.push(nar.subarray(0, cut));
      expect(() => parser.end()).toThrowError(invalid);
    }
  });

  it('accepts only canonical archives: a changed one is refused, or is the NAR of what was read', () => {
    const change = fc.record({
      at: fc.nat(),
      remove: fc.integer({ min: 0, max: 16 }),
      insert: fc.uint8Array({ maxLength: 16 }),
      flip: fc.integer({ min: 0, max: 255 }),
    });
    fc.assert(
      fc.property(anyNode, fc.array(change, { minLength: 1, maxLength: 3 }), (node, changes) => {
        let nar = narOf(node);
        for (const { at, remove, insert, flip } of changes) {
          const place = at % nar.length;
          nar = Buffer.concat([nar.subarray(0, place), insert, nar.subarray(place + remove)]);
          if (nar.length > 0) nar[at % nar.length]! ^= flip;
        }
        let read: Node;
        try {
          read = parse(nar);
        } catch (error) {
          expect(error).toEqual(invalid);
          return;
        }
        expect(narOf(read).equals(nar)).toBe(true);
      }),
      { numRuns: 1000 },
    );
  });

  const badPadding = folderOf('a');
  badPadding[badPadding.indexOf('directory') + 'directory'.length] = 1;
  const longName = 'n'.repeat(256);
  it.each<[string, Buffer]>([
    ['nothing', Buffer.alloc(0)],
    ['another magic', words('nix-archive-2', ...empty)],
    ['duplicate names', folderOf('a', 'a')],
    ['unsorted names', folderOf('b', 'a')],
    ['names sorted by another rule', folderOf('a', 'B')],
    ['the name .', folderOf('.')],
    ['the name ..', folderOf('..')],
    ['a slash in a name', folderOf('a/b')],
    ['NUL in a name', folderOf('a\0')],
    ['an empty name', folderOf('')],
    ['a name that is too long', folderOf(longName)],
    ['padding that is not zero', badPadding],
    ['trailing bytes', Buffer.concat([narOf(sample), Buffer.alloc(8)])],
    ['a second archive', Buffer.concat([narOf(sample), narOf(sample)])],
    ['an unknown type', words('nix-archive-1', '(', 'type', 'device', ')')],
    ['a regular file without contents', words('nix-archive-1', '(', 'type', 'regular', ')')],
    [
      'executable with a value',
      words('nix-archive-1', '(', 'type', 'regular', 'executable', 'x', 'contents', '', ')'),
    ],
    [
      'executable twice',
      words('nix-archive-1', '(', 'type', 'regular', 'executable', '', 'executable', '', 'contents', '', ')'),
    ],
    [
      'executable after the contents',
      words('nix-archive-1', '(', 'type', 'regular', 'contents', '', 'executable', '', ')'),
    ],
    ['an empty target', words('nix-archive-1', '(', 'type', 'symlink', 'target', '', ')')],
    ['NUL in a target', words('nix-archive-1', '(', 'type', 'symlink', 'target', 'a\0b', ')')],
    [
      'a target that is too long',
      words('nix-archive-1', '(', 'type', 'symlink', 'target', 'x'.repeat(4096), ')'),
    ],
    [
      'a length beyond any file',
      Buffer.concat([words('nix-archive-1', '(', 'type', 'regular', 'contents'), Buffer.alloc(8, 0xff)]),
    ],
    ['a string of 4 GB', Buffer.from([0, 0, 0, 0, 1, 0, 0, 0])],
    [
      'folders without end',
      words(
        'nix-archive-1',
        ...Array.from({ length: 1100 }, () => [
          '(',
          'type',
          'directory',
          'entry',
          '(',
          'name',
          'a',
          'node',
        ]).flat(),
      ),
    ],
  ])('refuses %s', (_what, nar) => {
    const whole = (chunk: number) => () => parse(nar, chunk);
    expect(whole(nar.length || 1)).toThrowError(invalid);
    expect(whole(7)).toThrowError(invalid);
  });

  it('stops at the size it is told', () => {
    const parser = new NarParser(ignore, { maxSize: 100 });
    expect(() => parser.push(narOf(sample))).toThrowError(expect.objectContaining({ code: 'FLK_LIMIT' }));
  });

  it('writes nothing from a walk out of order', () => {
    const writer = (): NarWriter => new NarWriter(() => {});
    const faults: ((sink: NarWriter) => void)[] = [
      (sink) => sink.entry(Buffer.from('a')),
      (sink) => sink.endDirectory(),
      (sink) => sink.end(),
      (sink) => {
        sink.directory();
        sink.directory();
      },
      (sink) => {
        sink.directory();
        sink.entry(Buffer.from('a'));
        sink.endDirectory();
      },
      (sink) => {
        sink.directory();
        sink.entry(Buffer.from('b'));
        sink.symlink(Buffer.from('x'));
        sink.entry(Buffer.from('a'));
      },
      (sink) => {
        sink.directory();
        sink.entry(Buffer.from('../a'));
      },
      (sink) => {
        sink.file(2, false);
        sink.data(Buffer.from('abc'));
      },
      (sink) => {
        sink.file(2, false);
        sink.data(Buffer.from('a'));
        sink.endFile();
      },
      (sink) => {
        sink.file(0, false);
        sink.endFile();
        sink.file(0, false);
      },
      (sink) => {
        sink.directory();
        sink.end();
      },
    ];
    for (const fault of faults) expect(() => fault(writer())).toThrowError(internal);
  });

  it('counts and hashes what it writes', async () => {
    const big = directory({ big: file(Buffer.alloc(1_000_003, 'flk')), small: file('1') });
    const { narSize, narHash } = await hashTree(treeFrom(big, 70_000));
    expect(narSize).toBe(narOf(big).length);
    expect((await hashTree(treeFrom(big, 11))).narHash).toBe(narHash);
  });
});
