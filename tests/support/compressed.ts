/** One tar archive, packed in every way that flk unpacks. */
import { gzipSync } from 'node:zlib';
import type { Compression } from '../../src/formats/archives/decompress.ts';
import { type TarEntry, tarOf } from './archives.ts';

/** A small program’s archive. */
export const pkg = [
  { path: 'pkg/', type: '5', mode: 0o755 },
  { path: 'pkg/hello', contents: 'Hello.\n' },
  { path: 'pkg/run', contents: '#!/bin/sh\n', mode: 0o755 },
] satisfies TarEntry[];

// The tar of `pkg`, packed by bzip2 -9 and zstd -19.
const bzip2 =
  'QlpoOTFBWSZTWRSZ7ukAAHtfgMuQaAH3gABAAKRy7d4ACYggAHIjUQAA0AAA9J6gklT9SNGagY9UyaNHqACc5azey/FbA1IgNxb4VNzSFtujMpKpAMCjq64fLZ4MRgVCDSmEljy50JKhWGN9jxfW5DPnTxRZqWSmLIGNLtewbvRjwjJrVkk6IIygEgNAwAvxdyRThQkBSZ7ukA==';
const zstd =
  'KLUv/WQADaUDAMIEEBGQfYRv+PPMV0XwHayiL0VJATGXKl0RAy106sYFzuuAWEofM8HP/1opKUvpiwXO68Y4bjpv/+AKvTL+v4wXOG8RIBBtltsB+rkC9wZIPWUDVLEd3gMuNfWoHKxquuvh4AGmMz91QE75UMIDDgpgPIU3+zGZMg==';

export async function xz(data: Buffer): Promise<Buffer> {
  const { compress } = await import('lzma-native');
  return new Promise((resolve) => void compress(data, {}, (result) => resolve(result)));
}

/** The tar of `pkg`. */
export const compressed: Readonly<Record<Compression, () => Promise<Buffer>>> = {
  none: async () => tarOf(...pkg),
  gzip: async () => gzipSync(tarOf(...pkg)),
  xz: () => xz(tarOf(...pkg)),
  bzip2: async () => Buffer.from(bzip2, 'base64'),
  zstd: async () => Buffer.from(zstd, 'base64'),
};
