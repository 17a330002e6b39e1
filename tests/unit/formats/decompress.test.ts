import { Readable } from 'node:stream';
import { describe, expect, test } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import { compressionOf, decompress } from '../../../src/formats/archives/decompress.ts';
import { ArchiveTruncated } from '../../../src/formats/archives/entry.ts';
import { withSmallWindow, ZstdWindowCheck } from '../../../src/formats/archives/zstd-window.ts';
import { tarOf } from '../../support/archives.ts';
import { compressed, pkg } from '../../support/compressed.ts';

const unpacked = (bytes: Buffer): Promise<Buffer> =>
  collected(decompress(Readable.from([bytes]), compressionOf(bytes)));

async function collected(source: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of source) chunks.push(chunk);
  return Buffer.concat(chunks);
}

describe.each(['gzip', 'xz', 'bzip2', 'zstd'] as const)('%s', (name) => {
  test('is told by its first bytes, and unpacks', async () => {
    const bytes = await compressed[name]();
    expect(compressionOf(bytes)).toBe(name);
    // Writers fill archives up with zeros, each to a length of its own.
    expect((await unpacked(bytes)).subarray(0, 3584)).toEqual(tarOf(...pkg).subarray(0, 3584));
  });

  test('knows that it breaks off, wherever it does', async () => {
    const bytes = await compressed[name]();
    for (let end = 8; end < bytes.length; end += 7)
      await expect(unpacked(bytes.subarray(0, end)), `at ${end}`).rejects.toBeInstanceOf(ArchiveTruncated);
    await expect(unpacked(bytes.subarray(0, -1))).rejects.toBeInstanceOf(ArchiveTruncated);
  });
});

describe('zstd', () => {
  const magic = Buffer.from('28b52ffd', 'hex');
  /** Frames whose headers ask for much, and which would give little. */
  const greedy: [string, Buffer][] = [
    ['a window of 3.75 TB', Buffer.concat([magic, Buffer.from('00ff010000', 'hex')])],
    ['a window of 144 MiB', Buffer.concat([magic, Buffer.from('008901000000', 'hex')])],
    ['its content at once', Buffer.concat([magic, Buffer.from('e0000000000001000001000000', 'hex')])],
  ];
  const skippable = Buffer.concat([Buffer.from('502a4d1805000000', 'hex'), Buffer.alloc(5, 0xff)]);

  test.each(greedy)('does not get %s, wherever it asks', async (_, frame) => {
    const padded = Buffer.concat([frame, Buffer.alloc(20)]);
    const honest = await compressed.zstd();
    for (const bytes of [padded, Buffer.concat([honest, padded]), Buffer.concat([honest, skippable, padded])])
      await expect(checked(bytes)).rejects.toMatchObject({ code: 'FLK_LIMIT' });
  });

  test('gets what zstd -19 asks for, in several frames', async () => {
    const honest = await compressed.zstd();
    await checked(Buffer.concat([honest, skippable, honest]));
    expect((await unpacked(Buffer.concat([honest, honest]))).length).toBe(
      (await unpacked(honest)).length * 2,
    );
  });

  test('of which little comes out needs no larger window, and none is made larger', async () => {
    const honest = await compressed.zstd();
    const tar = await unpacked(honest);
    // Without its size, and with a window of 2 MiB.
    const stream = Buffer.concat([magic, Buffer.from('0458', 'hex'), honest.subarray(7)]);
    for (const size of [tar.length, 2 ** 20, 2 ** 21, 2 ** 40, Number.POSITIVE_INFINITY])
      expect(await collected(decompress(Readable.from([stream]), 'zstd', size))).toEqual(tar);
    // Told too little, it gives less, or the same, or refuses; it never fails as only a fault of flk's would.
    for (const lie of [0, 1, 100, 1024, tar.length - 1]) {
      const outcome = await collected(decompress(Readable.from([stream]), 'zstd', lie)).then(
        (bytes) => (bytes.length <= tar.length ? 'no more' : 'more'),
        (error: unknown) => (error instanceof FlkError ? error.code : error),
      );
      expect(['no more', 'FLK_ARCHIVE_INVALID']).toContain(outcome);
    }
    const windows = [0, 1024, 1025, 8000, 2 ** 20, 2 ** 20 + 1, 2 ** 40].map(
      (size) => 2 ** (10 + (withSmallWindow(stream, size)[5]! >> 3)),
    );
    expect(windows).toEqual([1024, 1024, 2048, 8192, 2 ** 20, 2 ** 21, 2 ** 21]);
    for (const other of [honest, skippable, stream.subarray(0, 5)])
      expect(withSmallWindow(other, 1024)).toEqual(other);
    expect(stream[5]).toBe(0x58);
  });

  /** In pieces of every size. */
  async function checked(bytes: Buffer): Promise<void> {
    for (let size = 1; size < 40; size += 6) {
      const check = new ZstdWindowCheck();
      for (let at = 0; at < bytes.length; at += size) check.push(bytes.subarray(at, at + size));
    }
  }
});
