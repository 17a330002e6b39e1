import { Readable } from 'node:stream';
import { describe, expect, test } from 'vitest';
import { compressionOf, decompress } from '../../../src/formats/archives/decompress.ts';
import { ArchiveTruncated } from '../../../src/formats/archives/entry.ts';
import { tarOf } from '../../support/archives.ts';
import { compressed, pkg } from '../../support/compressed.ts';

async function unpacked(bytes: Buffer): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of decompress(Readable.from([bytes]), compressionOf(bytes))) chunks.push(chunk);
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
