import { createHash } from 'node:crypto';
import { deflateSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { hashTree, NarHasher } from '../../../src/formats/nar.ts';
import { type PackLimits, packLimits } from '../../../src/formats/pack.ts';
import { createInflater, OneShotInflater } from '../../../src/formats/pack-inflate.ts';
import { type PackSummary, PackTreeReader } from '../../../src/formats/pack-tree.ts';
import {
  commitContent,
  copy,
  deltaBetween,
  type Entry,
  insert,
  makeDelta,
  makePack,
  objectHead,
  objectId,
  objectsOf,
  type Piece,
  treeContent,
} from '../../support/packs.ts';
import { directory, file, type Node, symlink, TreeCollector, treeFrom } from '../../support/trees.ts';

interface Options {
  readonly chunk?: number;
  readonly limits?: Partial<PackLimits>;
  readonly maxNodes?: number;
  readonly maxBytes?: number;
}

/** Reads a pack from memory: what it holds, and what it says. */
function readPack(rev: string, pack: Buffer, options: Options = {}): PackSummary & { root: Node } {
  const sink = new TreeCollector();
  let pushed = 0;
  const reader = new PackTreeReader({
    rev,
    sink,
    reread: (offset, length) => pack.subarray(offset, Math.min(offset + length, pushed)),
    limits: { ...packLimits, ...options.limits },
    ...(options.maxNodes === undefined ? {} : { maxNodes: options.maxNodes }),
    ...(options.maxBytes === undefined ? {} : { maxBytes: options.maxBytes }),
  });
  const chunk = options.chunk ?? 65536;
  for (let at = 0; at < pack.length; at += chunk) {
    pushed = Math.min(at + chunk, pack.length);
    // A copy that is spoilt afterwards: the reader may not lean on a chunk after the call.
    const piece = Buffer.from(pack.subarray(at, pushed));
    reader.push(piece);
    piece.fill(0xaa);
  }
  return { ...reader.end(), root: sink.root };
}

const failure = (code: string, message?: RegExp) =>
  expect.objectContaining(message ? { code, message: expect.stringMatching(message) } : { code });

const sample = directory({
  'a.txt': file('alpha\n'),
  'a-b': directory({ run: file('#!/bin/sh\n', true), link: symlink('../a.txt') }),
  a: directory({ 'caf\xe9': file('latin1 name'), empty: file('') }),
  copy: file('alpha\n'),
  zz: file(Buffer.alloc(9000, 'text ')),
});

describe('a pack read as it arrives', () => {
  const { rev, pieces } = objectsOf(sample);

  it.each([1, 2, 3, 7, 31, 32, 33, 1000, 1_000_000])('gives the tree in chunks of %i bytes', (chunk) => {
    const pack = makePack(pieces);
    const { root, lastModified, checksum } = readPack(rev, pack, { chunk });
    expect(root).toEqual(sample);
    expect(lastModified).toBe(1700000000);
    expect(checksum).toBe(pack.subarray(-20).toString('hex'));
  });

  it('does not care in which order the objects come', () => {
    fc.assert(
      fc.property(
        fc.shuffledSubarray(pieces, { minLength: pieces.length }),
        fc.integer({ min: 1, max: 500 }),
        (order, chunk) => {
          expect(readPack(rev, makePack(order), { chunk }).root).toEqual(sample);
        },
      ),
      { numRuns: 50 },
    );
  });

  it('gives names in byte order, which is not the order of Git’s own trees', async () => {
    const hasher = new NarHasher();
    const pack = makePack(pieces);
    const reader = new PackTreeReader({ rev, sink: hasher, reread: (o, l) => pack.subarray(o, o + l) });
    reader.push(pack);
    reader.end();
    expect(hasher.digest()).toEqual(await hashTree(treeFrom(sample)));
  });

  it('tells how far it is', () => {
    const pack = makePack(pieces);
    const reader = new PackTreeReader({ rev, sink: new TreeCollector(), reread: () => pack });
    expect(reader.progress).toEqual({ done: 0, total: undefined });
    reader.push(pack.subarray(0, 12));
    expect(reader.progress).toEqual({ done: 0, total: pieces.length });
    reader.push(pack.subarray(12));
    expect(reader.progress).toEqual({ done: pieces.length, total: pieces.length });
  });

  it('takes a submodule for an empty folder, and follows an annotated tag', () => {
    const tree = treeContent([{ mode: '160000', name: 'sub', id: '1'.repeat(40) }]);
    const commit = commitContent(objectId('tree', tree));
    const tag = Buffer.from(`object ${objectId('commit', commit)}\ntype commit\ntag v1\n\nhello`);
    const pack = makePack([
      { kind: 'tree', content: tree },
      { kind: 'tag', content: tag },
      { kind: 'commit', content: commit },
    ]);
    expect(readPack(objectId('tag', tag), pack).root).toEqual(directory({ sub: directory() }));
  });

  it('reads a file that is too large for memory in pieces, wherever it stands in the pack', () => {
    const large = Buffer.alloc(33 * 2 ** 20 + 5, 'large file ');
    const { rev, pieces } = objectsOf(directory({ a: file('x'), big: file(large, true), c: file('y') }));
    for (const order of [pieces, [...pieces].reverse()]) {
      const pack = makePack(order);
      const digest = createHash('sha256');
      let largest = 0;
      let pushed = 0;
      const sink = new TreeCollector();
      const data = sink.data.bind(sink);
      sink.data = (chunk) => {
        largest = Math.max(largest, chunk.length);
        digest.update(chunk);
        data(chunk);
      };
      const reader = new PackTreeReader({
        rev,
        sink,
        reread: (offset, length) => pack.subarray(offset, Math.min(offset + length, pushed)),
      });
      for (let at = 0; at < pack.length; at += 60_000) {
        pushed = Math.min(pack.length, at + 60_000);
        reader.push(pack.subarray(at, pushed));
      }
      reader.end();
      expect(largest).toBeLessThan(2 ** 20);
      expect(digest.digest('hex')).toBe(
        createHash('sha256').update('x').update(large).update('y').digest('hex'),
      );
    }
  });
});

/** A commit of one file `f` whose content is given by other pieces. */
function commitOf(content: Buffer, ...others: Piece[]): { rev: string; pieces: Piece[] } {
  const tree = treeContent([{ mode: '100644', name: 'f', id: objectId('blob', content) }]);
  const commit = commitContent(objectId('tree', tree));
  return {
    rev: objectId('commit', commit),
    pieces: [{ kind: 'commit', content: commit }, { kind: 'tree', content: tree }, ...others],
  };
}

describe('deltas', () => {
  const base = Buffer.from('The quick brown fox jumps over the lazy dog. '.repeat(50));
  const result = Buffer.concat([base.subarray(0, 700), Buffer.from('something else'), base.subarray(100)]);
  const third = Buffer.concat([result, Buffer.from('!')]);
  const delta = deltaBetween(base, result);
  const further = deltaBetween(result, third);
  const whole: Piece = { kind: 'blob', content: base };
  const baseId = objectId('blob', base);
  const resultId = objectId('blob', result);

  it.each<[string, Buffer, Piece[]]>([
    ['by offset', result, [whole, { kind: 'offset-delta', of: 2, delta }]],
    ['by name', result, [whole, { kind: 'named-delta', of: baseId, delta }]],
    ['by name, before its base', result, [{ kind: 'named-delta', of: baseId, delta }, whole]],
    [
      'in a chain',
      third,
      [whole, { kind: 'offset-delta', of: 2, delta }, { kind: 'offset-delta', of: 3, delta: further }],
    ],
    [
      'in a chain told backwards',
      third,
      [
        { kind: 'named-delta', of: resultId, delta: further },
        { kind: 'named-delta', of: baseId, delta },
        whole,
      ],
    ],
    [
      'by offset of one that waits',
      third,
      [{ kind: 'named-delta', of: baseId, delta }, { kind: 'offset-delta', of: 2, delta: further }, whole],
    ],
  ])('are resolved %s', (_, content, others) => {
    const { rev, pieces } = commitOf(content, ...others);
    for (const chunk of [1, 50, 100_000]) {
      expect(readPack(rev, makePack(pieces), { chunk }).root).toEqual(directory({ f: file(content) }));
    }
  });

  it('are resolved in chains of thousands', () => {
    const contents = Array.from({ length: 2000 }, (_, i) => Buffer.from(`version ${i} of a file\n`));
    const chain = contents.map(
      (content, i): Piece =>
        i === 0
          ? { kind: 'blob', content }
          : { kind: 'offset-delta', of: i + 1, delta: deltaBetween(contents[i - 1]!, content) },
    );
    const { rev, pieces } = commitOf(contents.at(-1)!, ...chain);
    expect(readPack(rev, makePack(pieces)).root).toEqual(directory({ f: file(contents.at(-1)!) }));
    expect(() => readPack(rev, makePack(pieces), { limits: { deltaDepth: 100 } })).toThrow(
      failure('FLK_LIMIT'),
    );
  });

  it('copy 65536 bytes where they name no size', () => {
    const content = Buffer.alloc(65536, 'abc');
    const { rev, pieces } = commitOf(
      content,
      { kind: 'blob', content: Buffer.concat([content, Buffer.from('tail')]) },
      { kind: 'offset-delta', of: 2, delta: makeDelta(65540, 65536, Buffer.from([0x80])) },
    );
    expect(readPack(rev, makePack(pieces)).root).toEqual(directory({ f: file(content) }));
  });

  it('that wait for one another for ever are refused', () => {
    const { rev, pieces } = commitOf(
      result,
      { kind: 'named-delta', of: resultId, delta: deltaBetween(result, base) },
      { kind: 'named-delta', of: baseId, delta },
    );
    expect(() => readPack(rev, makePack(pieces))).toThrow(failure('FLK_GIT_PACK', /base/));
  });

  it.each([
    ['copy past the base’s end', makeDelta(base.length, 10, copy(base.length - 5, 10))],
    ['copy from far outside', makeDelta(base.length, 10, copy(0xffffffff, 10))],
    ['make more than they promise', makeDelta(base.length, 3, insert('four'))],
    ['make less than they promise', makeDelta(base.length, 30, insert('four'))],
    ['are for another base', makeDelta(base.length + 1, 4, insert('four'))],
    ['break off in an insertion', makeDelta(base.length, 4, Buffer.from([4, 65]))],
    ['break off in a copy', makeDelta(base.length, 4, Buffer.from([0xff, 0]))],
    ['use the reserved instruction', makeDelta(base.length, 4, Buffer.from([0]), insert('four'))],
    ['have no sizes', Buffer.from([0x80, 0x80])],
    ['have sizes without end', Buffer.alloc(30, 0xff)],
    ['are empty', Buffer.alloc(0)],
  ])('that %s are refused', (_, broken) => {
    for (const order of ['after', 'before'] as const) {
      const piece: Piece = { kind: 'named-delta', of: baseId, delta: broken };
      const { rev, pieces } = commitOf(result, ...(order === 'after' ? [whole, piece] : [piece, whole]));
      expect(() => readPack(rev, makePack(pieces))).toThrow(
        failure('FLK_GIT_PACK', /a delta in the pack is broken/),
      );
    }
  });

  it('that promise gigabytes are refused before memory is taken', () => {
    const bomb = makeDelta(base.length, 2 ** 40, copy(0, 700));
    const { rev, pieces } = commitOf(result, whole, { kind: 'offset-delta', of: 2, delta: bomb });
    expect(() => readPack(rev, makePack(pieces))).toThrow(failure('FLK_LIMIT'));
  });

  it('that grow with every step stop at the limit of work', () => {
    const grow = (size: number): Buffer => makeDelta(size, size * 2, copy(0, size), copy(0, size));
    const start = Buffer.alloc(2 ** 16, 'x');
    const chain: Piece[] = [{ kind: 'blob', content: start }];
    for (let i = 0; i < 7; i++) chain.push({ kind: 'offset-delta', of: i + 2, delta: grow(2 ** (16 + i)) });
    const { rev, pieces } = commitOf(start, ...chain);
    expect(readPack(rev, makePack(pieces)).root).toEqual(directory({ f: file(start) }));
    expect(() => readPack(rev, makePack(pieces), { limits: { work: 2 ** 20 } })).toThrow(
      failure('FLK_LIMIT'),
    );
  });
});

describe('a pack that is wrong', () => {
  const { rev, pieces } = objectsOf(sample);
  const pack = makePack(pieces);

  it('is refused wherever it breaks off', () => {
    for (let end = 0; end < pack.length; end++)
      expect(() => readPack(rev, pack.subarray(0, end), { chunk: 97 })).toThrow(failure('FLK_GIT_PACK'));
  });

  it('is refused with bytes after its end', () => {
    expect(() => readPack(rev, Buffer.concat([pack, Buffer.from('x')]))).toThrow(
      failure('FLK_GIT_PACK', /follow/),
    );
  });

  it('never gives another tree when bytes are flipped', () => {
    const flips = fc.array(fc.tuple(fc.nat(pack.length - 1), fc.integer({ min: 1, max: 255 })), {
      minLength: 1,
      maxLength: 4,
    });
    fc.assert(
      fc.property(flips, fc.boolean(), (flips, mend) => {
        const broken = Buffer.from(pack);
        for (const [at, bits] of flips) broken[at]! ^= bits;
        // With the checksum made right, only the objects' own names are left to tell.
        if (mend)
          createHash('sha1')
            .update(broken.subarray(0, -20))
            .digest()
            .copy(broken, broken.length - 20);
        let root: Node | undefined;
        try {
          root = readPack(rev, broken).root;
        } catch (error) {
          expect(['FLK_GIT_PACK', 'FLK_GIT_TREE', 'FLK_LIMIT']).toContain((error as { code?: string }).code);
        }
        if (root) expect(root).toEqual(sample);
      }),
      { numRuns: 500 },
    );
  });

  it.each<[string, Buffer]>([
    ['another signature', Buffer.concat([Buffer.from('KCAP'), pack.subarray(4)])],
    ['another version', Buffer.concat([Buffer.from('PACK\0\0\0\x03'), pack.subarray(8)])],
    ['a wrong checksum', makePack(pieces, { checksum: Buffer.alloc(20, 1) })],
    ['fewer objects than it says', makePack(pieces, { count: pieces.length + 1 })],
    ['more objects than it says', makePack(pieces, { count: pieces.length - 1 })],
    ['none of its objects', makePack([])],
    ['an object left out', makePack(pieces.slice(0, -1))],
    ['text', Buffer.from('<!DOCTYPE html><title>Not a pack</title>')],
  ])('is refused with %s', (_, bytes) => {
    expect(() => readPack(rev, bytes)).toThrow(failure('FLK_GIT_PACK'));
  });

  it('is refused for another commit', () => {
    expect(() => readPack('1'.repeat(40), pack)).toThrow(failure('FLK_GIT_PACK', /lacks object 1111/));
  });

  it.each([0, 5])('is refused with an object of the unknown type %i', (kind) => {
    const body = Buffer.concat([
      Buffer.from('PACK\0\0\0\x02\0\0\0\x01'),
      objectHead(kind, 1),
      deflateSync(Buffer.from('x')),
    ]);
    const bytes = Buffer.concat([body, createHash('sha1').update(body).digest()]);
    expect(() => readPack(rev, bytes)).toThrow(failure('FLK_GIT_PACK', /unknown type/));
  });

  it.each([
    ['longer', 4],
    ['shorter', 6],
  ])('is refused where an object is %s than it says', (_, size) => {
    const body = Buffer.concat([
      Buffer.from('PACK\0\0\0\x02\0\0\0\x01'),
      objectHead(3, size),
      deflateSync(Buffer.from('12345')),
    ]);
    const bytes = Buffer.concat([body, createHash('sha1').update(body).digest()]);
    expect(() => readPack(rev, bytes)).toThrow(failure('FLK_GIT_PACK', /promises/));
  });

  it('is refused over its limits', () => {
    expect(() => readPack(rev, pack, { limits: { objects: 3 } })).toThrow(failure('FLK_LIMIT'));
    expect(() => readPack(rev, pack, { limits: { objectSize: 1000 } })).toThrow(failure('FLK_LIMIT'));
    expect(() => readPack(rev, pack, { limits: { memorySize: 1000 } })).toThrow(failure('FLK_LIMIT'));
    expect(() => readPack(rev, pack, { limits: { work: 1000 } })).toThrow(failure('FLK_LIMIT'));
    expect(() => readPack(rev, pack, { maxNodes: 5 })).toThrow(failure('FLK_LIMIT'));
    expect(() => readPack(rev, pack, { maxBytes: 1000 })).toThrow(failure('FLK_LIMIT'));
    expect(() => readPack(rev, Buffer.from('PACK\0\0\0\x02\xff\xff\xff\xff', 'latin1'))).toThrow(
      failure('FLK_LIMIT'),
    );
  });

  it('is refused when a few small trees unpack to millions of folders', () => {
    let content = treeContent([]);
    const trees: Piece[] = [{ kind: 'tree', content }];
    for (let level = 0; level < 12; level++) {
      const id = objectId('tree', content);
      content = treeContent(Array.from({ length: 10 }, (_, i) => ({ mode: '40000', name: `d${i}`, id })));
      trees.push({ kind: 'tree', content });
    }
    const commit = commitContent(objectId('tree', content));
    const bomb = makePack([...trees, { kind: 'commit', content: commit }]);
    expect(() => readPack(objectId('commit', commit), bomb, { maxNodes: 20_000 })).toThrow(
      failure('FLK_LIMIT', /files and folders/),
    );
  });

  it('is refused when folders lie thousands deep', () => {
    let content = treeContent([]);
    const trees: Piece[] = [];
    for (let level = 0; level < 1100; level++) {
      trees.push({ kind: 'tree', content });
      content = treeContent([{ mode: '40000', name: 'd', id: objectId('tree', content) }]);
    }
    trees.push({ kind: 'tree', content });
    const commit = commitContent(objectId('tree', content));
    const deep = makePack([...trees, { kind: 'commit', content: commit }]);
    expect(() => readPack(objectId('commit', commit), deep)).toThrow(failure('FLK_LIMIT', /deep/));
  });
});

describe('a tree that no file system should be given', () => {
  const blob = Buffer.from('x');
  const id = objectId('blob', blob);
  const readTree = (entries: Entry[]): Node => {
    const tree = treeContent(entries, true);
    const commit = commitContent(objectId('tree', tree));
    const pack = makePack([
      { kind: 'commit', content: commit },
      { kind: 'tree', content: tree },
      { kind: 'blob', content: blob },
      { kind: 'blob', content: Buffer.alloc(0) },
      { kind: 'blob', content: Buffer.alloc(4096, 'x') },
      { kind: 'blob', content: Buffer.from('a\0b') },
    ]);
    return readPack(objectId('commit', commit), pack).root;
  };

  it.each(['.git', '.GIT', '.gIt', '.', '..', '', 'a/b', '/', 'x'.repeat(256)])(
    'has an entry named %j',
    (name) => {
      expect(() => readTree([{ mode: '100644', name, id }])).toThrow(failure('FLK_GIT_TREE'));
    },
  );

  it.each(['100644', '40000'])('has two entries of one name, the other of mode %s', (mode) => {
    expect(() =>
      readTree([
        { mode: '100644', name: 'a', id },
        { mode: '100644', name: 'a.b', id },
        { mode, name: 'a', id },
      ]),
    ).toThrow(failure('FLK_GIT_TREE', /two entries/));
  });

  it.each([
    '',
    '0',
    '644',
    '60000',
    '104644',
    '140000',
    '1006440',
    '10o644',
    '-100644',
    '41000',
    '120777',
    '160001',
  ])('has the mode %j', (mode) => {
    expect(() => readTree([{ mode, name: 'a', id }])).toThrow(failure('FLK_GIT_TREE'));
  });

  it.each([
    ['100664', file('x')],
    ['100600', file('x')],
    ['100775', file('x', true)],
    ['0100644', file('x')],
  ])('but the old mode %s is read as Git reads it', (mode, node) => {
    expect(readTree([{ mode, name: 'a', id }])).toEqual(directory({ a: node }));
  });

  it('has a file where a folder should be, or the other way round', () => {
    expect(() => readTree([{ mode: '40000', name: 'a', id }])).toThrow(failure('FLK_GIT_TREE'));
    const tree = treeContent([]);
    const outer = treeContent([{ mode: '100644', name: 'a', id: objectId('tree', tree) }]);
    const commit = commitContent(objectId('tree', outer));
    const pack = makePack(
      [tree, outer]
        .map((content): Piece => ({ kind: 'tree', content }))
        .concat({ kind: 'commit', content: commit }),
    );
    expect(() => readPack(objectId('commit', commit), pack)).toThrow(failure('FLK_GIT_TREE'));
  });

  it.each([
    ['empty', Buffer.alloc(0)],
    ['too long', Buffer.alloc(4096, 'x')],
    ['cut by a NUL', Buffer.from('a\0b')],
  ])('has a symlink whose target is %s', (_, target) => {
    expect(() => readTree([{ mode: '120000', name: 'a', id: objectId('blob', target) }])).toThrow(
      failure('FLK_GIT_TREE'),
    );
  });

  it('breaks off inside an entry', () => {
    const tree = treeContent([{ mode: '100644', name: 'a', id }]).subarray(0, -3);
    const commit = commitContent(objectId('tree', tree));
    const pack = makePack([
      { kind: 'commit', content: commit },
      { kind: 'tree', content: tree },
    ]);
    expect(() => readPack(objectId('commit', commit), pack)).toThrow(failure('FLK_GIT_TREE', /breaks off/));
  });
});

it.each([
  ['no tree', 'author a\n\nx'],
  ['no committer', `tree ${'1'.repeat(40)}\nauthor A <a> 1 +0000\n\ncommitter C <c> 1 +0000\n`],
  ['a time that is no number', `tree ${'1'.repeat(40)}\ncommitter C <c> soon +0000\n\n`],
])('refuses a commit with %s', (_, text) => {
  const content = Buffer.from(text);
  expect(() => readPack(objectId('commit', content), makePack([{ kind: 'commit', content }]))).toThrow(
    failure('FLK_GIT_PACK'),
  );
});

it('refuses a revision that is a file, and tags that name one another without end', () => {
  const blob = Buffer.from('x');
  expect(() => readPack(objectId('blob', blob), makePack([{ kind: 'blob', content: blob }]))).toThrow(
    failure('FLK_GIT_PACK', /not a commit/),
  );
  let tag = Buffer.from(`object ${'1'.repeat(40)}\n`);
  const tags: Piece[] = [];
  for (let i = 0; i < 12; i++) {
    tags.unshift({ kind: 'tag', content: tag });
    tag = Buffer.from(`object ${objectId('tag', tag)}\n`);
  }
  tags.unshift({ kind: 'tag', content: tag });
  expect(() => readPack(objectId('tag', tag), makePack(tags))).toThrow(
    failure('FLK_GIT_PACK', /not a commit/),
  );
});

describe.each([
  ['Node’s handle', () => createInflater()],
  ['the public API', () => new OneShotInflater()],
])('inflating with %s', (_, create) => {
  it('finds the end of each stream, however the input is cut', () => {
    const contents = fc.array(fc.uint8Array({ maxLength: 2000 }), { minLength: 1, maxLength: 5 });
    fc.assert(
      fc.property(contents, fc.integer({ min: 1, max: 300 }), (contents, chunk) => {
        const input = Buffer.concat([
          ...contents.map((content) => deflateSync(content)),
          Buffer.from('the end'),
        ]);
        const inflater = create();
        let at = 0;
        for (const content of contents) {
          const output = Buffer.alloc(content.length + 1);
          let made = 0;
          inflater.begin();
          for (;;) {
            const end = Math.min(input.length, at + chunk);
            inflater.run(input.subarray(0, end), at, output, made, output.length);
            made += inflater.made;
            at += inflater.used;
            if (at < end) break;
          }
          expect(output.subarray(0, made).equals(content)).toBe(true);
          expect(made).toBe(content.length);
        }
        expect(input.subarray(at).toString()).toBe('the end');
      }),
    );
  });

  it('refuses what is not zlib, and what has a wrong checksum', () => {
    const good = deflateSync('content');
    const broken = Buffer.from(good);
    broken[broken.length - 1]! ^= 1;
    for (const input of [Buffer.from('certainly not'), broken]) {
      const inflater = create();
      inflater.begin();
      expect(() => inflater.run(input, 0, Buffer.alloc(100), 0, 100)).toThrow(failure('FLK_GIT_PACK'));
      // And it is good for the next stream.
      const output = Buffer.alloc(8);
      inflater.begin();
      inflater.run(Buffer.concat([good, Buffer.from('x')]), 0, output, 0, 8);
      expect(output.toString('utf8', 0, inflater.made)).toBe('content');
    }
  });
});
