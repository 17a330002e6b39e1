import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type ExportedPath,
  exportEnd,
  exportEntry,
  exportRecord,
  readExport,
} from '../../../src/formats/export.ts';
import type { StorePath } from '../../../src/formats/store-path.ts';
import { withCode } from '../../support/errors.ts';
import { directory, file, type Node, narOf, nodeOf, symlink } from '../../support/trees.ts';

const path = (letter: string, name = 'x'): StorePath =>
  `/nix/store/${letter.repeat(32)}-${name}` as StorePath;

const sample = directory({ a: file('abc', true), b: directory({ l: symlink('../a') }), c: file('') });
const record: ExportedPath = {
  path: path('a'),
  references: [path('a'), path('b')],
  deriver: path('d', 'x.drv'),
};

function streamOf(...entries: readonly (readonly [Node, ExportedPath])[]): Buffer {
  const parts: Buffer[] = [];
  for (const [node, exported] of entries) parts.push(exportEntry, narOf(node), exportRecord(exported));
  return Buffer.concat([...parts, exportEnd]);
}

/** In chunks of these sizes, the last again and again. */
async function* chunked(bytes: Buffer, sizes: readonly number[] = [65536]): AsyncGenerator<Buffer> {
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = Math.max(1, sizes[Math.min(i, sizes.length - 1)]!);
    // A reader may not count on a chunk once it has asked for the next.
    const chunk = Buffer.from(bytes.subarray(at, at + size));
    yield chunk;
    chunk.fill(0xff);
    at += size;
  }
}

async function read(bytes: Buffer, sizes?: readonly number[]): Promise<(readonly [Node, ExportedPath])[]> {
  const taken: (readonly [Node, ExportedPath])[] = [];
  let node: Promise<Node> | undefined;
  let finish: () => void = () => {};
  await readExport(chunked(bytes, sizes), {
    begin: async () =>
      await new Promise((begun) => {
        node = nodeOf({
          walk: (sink) =>
            new Promise((resolve) => {
              finish = resolve;
              begun(sink);
            }),
        });
      }),
    end: async (exported) => {
      finish();
      taken.push([await node!, exported]);
    },
  });
  return taken;
}

describe('the stream of nix-store --export', () => {
  it('comes back as it was written, whatever the chunks', async () => {
    const second: ExportedPath = { path: path('b', 'two'), references: [] };
    const stream = streamOf([sample, record], [file('x'), second]);
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 6 }),
        async (sizes) => {
          expect(await read(stream, sizes)).toEqual([
            [sample, record],
            [file('x'), second],
          ]);
        },
      ),
      { numRuns: 40 },
    );
    expect(await read(exportEnd)).toEqual([]);
  });

  it('breaks off nowhere but at its end', async () => {
    const stream = streamOf([sample, record]);
    for (let length = 0; length < stream.length; length++)
      await expect(read(stream.subarray(0, length)), `${length}`).rejects.toSatisfy(
        (error: unknown) => error instanceof Error && /breaks off|ends where/.test(error.message),
      );
  });

  it('may carry a signature of the old kind, which says nothing', async () => {
    const stream = streamOf([sample, record]);
    const one = Buffer.alloc(8);
    one.writeUInt32LE(1);
    const old = Buffer.concat([
      stream.subarray(0, -16),
      one,
      Buffer.from([3, 0, 0, 0, 0, 0, 0, 0]),
      Buffer.from('sig\0\0\0\0\0'),
      exportEnd,
    ]);
    expect(await read(old)).toEqual([[sample, record]]);
  });

  const number = (value: number): Buffer => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(value));
    return bytes;
  };
  const text = (words: string, padding = 0): Buffer =>
    Buffer.concat([
      number(words.length),
      Buffer.from(words),
      Buffer.alloc((8 - (words.length % 8)) % 8, padding),
    ]);
  const magic = Buffer.from('NIXE\0\0\0\0');

  it.each([
    ['more after its end', [exportEnd, Buffer.from([0])], 'FLK_EXPORT_INVALID', /after its end/],
    ['another mark', [number(2)], 'FLK_EXPORT_INVALID', /no mark of a path/],
    ['text', [Buffer.from('#!/bin/sh\n')], 'FLK_EXPORT_INVALID', /larger than any number/],
    ['another record', ['nar', number(7)], 'FLK_EXPORT_INVALID', /no record/],
    ['a path of no store', ['nar', magic, text('/etc/passwd')], 'FLK_STORE_PATH_INVALID', /not a store path/],
    [
      'a path with a way out',
      ['nar', magic, text(`${path('a')}/../x`)],
      'FLK_STORE_PATH_INVALID',
      /lies deeper/,
    ],
    ['an endless path', ['nar', magic, number(2 ** 40)], 'FLK_EXPORT_INVALID', /has 1099511627776 bytes/],
    ['odd padding', ['nar', magic, text(path('a'), 1)], 'FLK_EXPORT_INVALID', /padding that is not zero/],
    [
      'references without number',
      ['nar', magic, text(path('a')), number(2 ** 50)],
      'FLK_LIMIT',
      /at most 100000/,
    ],
    [
      'a deriver that is none',
      ['nar', magic, text(path('a')), number(0), text('x')],
      'FLK_STORE_PATH_INVALID',
      /not a store path/,
    ],
    [
      'an odd mark of a signature',
      ['nar', magic, text(path('a')), number(0), text(''), number(2)],
      'FLK_EXPORT_INVALID',
      /neither 0 nor 1/,
    ],
  ] as const)('holds no %s', async (_, parts, code, message) => {
    const nar = narOf(sample);
    const stream = Buffer.concat(parts.flatMap((part) => (part === 'nar' ? [exportEntry, nar] : [part])));
    const failure = read(stream);
    await expect(failure).rejects.toThrow(message);
    await expect(failure).rejects.toEqual(withCode(code));
  });

  it('holds no NAR that Nix would not write', async () => {
    const [a, b] = [narOf(directory({ a: file(''), b: file('') })), Buffer.from('\u0001\0\0\0\0\0\0\0b')];
    const unsorted = Buffer.from(a);
    unsorted.write('c', unsorted.indexOf(Buffer.from('\u0001\0\0\0\0\0\0\0a')) + 8);
    expect(unsorted.includes(b)).toBe(true);
    await expect(read(Buffer.concat([exportEntry, unsorted]))).rejects.toEqual(withCode('FLK_NAR_INVALID'));
  });
});
