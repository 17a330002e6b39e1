/** Streams of chunks, decompressed: gzip, xz, zstd, bzip2; told apart by their first bytes, never by a name. */
import { pipeline, Readable, type Transform } from 'node:stream';
import * as zlib from 'node:zlib';
import { FlkError } from '../../base/errors.ts';
import { ArchiveTruncated, archiveError } from './entry.ts';
import { withSmallWindow, ZstdWindowCheck } from './zstd-window.ts';

export type Compression = 'none' | 'gzip' | 'xz' | 'zstd' | 'bzip2';

/** Enough leading bytes for `compressionOf`. */
export const magicLength = 6;

export function compressionOf(start: Buffer): Compression {
  if (start.subarray(0, 2).equals(Buffer.from([0x1f, 0x8b]))) return 'gzip';
  if (start.subarray(0, 6).equals(Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]))) return 'xz';
  if (start.subarray(0, 4).equals(Buffer.from([0x28, 0xb5, 0x2f, 0xfd]))) return 'zstd';
  if (/^BZh[1-9]$/.test(start.toString('latin1', 0, 4))) return 'bzip2';
  return 'none';
}

/** Node has had it since 22.15; the types are those of the oldest Node that flk runs on. */
const nativeZstd = Reflect.get(zlib, 'createZstdDecompress') as (() => Transform) | undefined;

/** What xz -9 needs (65 MiB) and some; a header may ask for 4 GiB. */
const xzMemory = 160 * 2 ** 20;
/** liblzma unpacks each bite to its end before it hands out the first byte, and a bite may become 7000 times larger. */
const xzBite = 4096;

/**
 * `most`: bytes that come out, where that is known. Where it is too little, less or other bytes may come: who knows the size knows the hash,
 * too. Throws FLK_LIMIT where a zstd stream wants too much
 * memory, FLK_ARCHIVE_INVALID where the stream is damaged, as ArchiveTruncated where it ends too early. Never holds more than a few
 * windows of it.
 */
export function decompress(
  source: AsyncIterable<Buffer>,
  compression: Compression,
  most = Number.POSITIVE_INFINITY,
): AsyncIterable<Buffer> {
  switch (compression) {
    case 'none':
      return source;
    case 'gzip':
      return through(source, async () => zlib.createGunzip({ chunkSize: 256 * 1024 }), compression);
    case 'xz':
      return unxz(source);
    case 'zstd':
      return nativeZstd ? through(source, async () => nativeZstd(), compression) : unzstd(source, most);
    case 'bzip2':
      return bunzip2(source);
  }
}

async function* through(
  source: AsyncIterable<Buffer>,
  open: () => Promise<Transform>,
  name: Compression,
): AsyncGenerator<Buffer> {
  const decoder = await open();
  // The iteration below sees the error, whichever of the two streams it is from.
  pipeline(source instanceof Readable ? source : Readable.from(source), decoder, () => {});
  try {
    for await (const chunk of decoder) yield chunk as Buffer;
  } catch (error) {
    throw damaged(name, error);
  }
}

/** The same bytes, never more than `size` at a time. */
async function* bites(source: AsyncIterable<Buffer>, size: number): AsyncGenerator<Buffer> {
  for await (const chunk of source)
    for (let at = 0; at < chunk.length; at += size) yield chunk.subarray(at, at + size);
}

/**
 * By the decoder itself, without the stream that it comes with: for small archives that takes longer than to unpack them. A bite is
 * unpacked on the thread pool while the bytes of the last one are used.
 */
async function* unxz(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const { default: lzma } = await import('lzma-native');
  const decoder = new lzma.Stream();
  let ready: Buffer[] = [];
  let failure: unknown;
  let settle = (): void => {};
  decoder.bufferHandler = (bytes, used, error) => {
    if (bytes) ready.push(bytes);
    failure ??= error;
    if (error || used !== undefined) settle();
  };
  const feed = (bite: Buffer | null, async: boolean): Promise<void> =>
    new Promise((resolve) => {
      settle = resolve;
      decoder.code(bite, async);
      if (!async) resolve();
    });
  const take = (): Buffer[] => {
    if (failure) throw damaged('xz', failure);
    const taken = ready;
    ready = [];
    return taken;
  };
  decoder.streamDecoder_(xzMemory, lzma.CONCATENATED);
  let pending: Promise<void> | undefined;
  try {
    for await (const bite of bites(source, xzBite)) {
      await pending;
      const bytes = take();
      // For the first bite, which may be all there is, a thread's answer would be waited for longer than for the bytes.
      pending = feed(bite, pending !== undefined);
      yield* bytes;
    }
    await pending;
    yield* take();
    await feed(null, false);
    yield* take();
  } finally {
    await pending;
    decoder.resetUnderlying();
  }
}

/** For a Node without zstd of its own. */
async function* unzstd(source: AsyncIterable<Buffer>, most: number): AsyncGenerator<Buffer> {
  const { Decompress } = await import('fzstd');
  const out: Buffer[] = [];
  const decoder = new Decompress((chunk) =>
    out.push(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length)),
  );
  const window = new ZstdWindowCheck();
  let isFirst = true;
  const push = (chunk: Buffer, last: boolean) => {
    try {
      window.push(chunk);
      decoder.push(isFirst ? withSmallWindow(chunk, most) : chunk, last);
      isFirst = false;
    } catch (error) {
      throw damaged('zstd', error);
    }
  };
  // Four bytes of zstd can become 128 KiB; small bites keep what waits in `out` small.
  for await (const bite of bites(source, 2048)) {
    push(bite, false);
    yield* out.splice(0);
  }
  push(Buffer.alloc(0), true);
  yield* out;
}

/** Bytes given out at once. */
const pieceSize = 256 * 1024;

/**
 * Block by block, for fifty bytes of bzip2 can become 46 MB: the next block waits until the last one is taken. Its decoder wants a
 * block to be there whole.
 */
async function* bunzip2(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const [{ default: bzip2 }, { default: bitReader }] = await Promise.all([
    import('unbzip2-stream/lib/bzip2.js'),
    import('unbzip2-stream/lib/bit_iterator.js'),
  ]);
  const waiting: Buffer[] = [];
  const chunks = source[Symbol.asyncIterator]();
  let received = 0;
  let ended = false;
  const gather = async (bytes: number): Promise<void> => {
    while (!ended && received - (bits?.bytesRead ?? 0) < bytes) {
      const next = await chunks.next();
      ended = next.done === true;
      if (next.done || next.value.length === 0) continue;
      received += next.value.length;
      waiting.push(next.value);
    }
  };
  let bits: ReturnType<typeof bitReader> | undefined;
  try {
    for (let level = 0, sum: number | null = null; ; ) {
      // No block is packed to more than it was, but for its tables.
      await gather(level === 0 ? 5 : 25_000 + 100_000 * level);
      if (ended && received === (bits?.bytesRead ?? 0) && sum === null) return;
      const pieces: Buffer[] = [];
      try {
        bits ??= bitReader(() => waiting.shift());
        if (sum === null) {
          level = bzip2.header(bits);
          sum = 0;
          continue;
        }
        sum = unpackBlock(bzip2, bits, level, sum, pieces);
      } catch (error) {
        throw damaged('bzip2', error);
      }
      if (sum === null) level = 0;
      for (let piece = pieces.shift(); piece; piece = pieces.shift()) yield piece;
    }
  } finally {
    await chunks.return?.();
  }
}

type Bzip2 = typeof import('unbzip2-stream/lib/bzip2.js').default;

/** The sum of all blocks so far, null at the end of a stream. */
function unpackBlock(
  bzip2: Bzip2,
  bits: Parameters<Bzip2['header']>[0],
  level: number,
  sum: number,
  pieces: Buffer[],
): number | null {
  let piece = Buffer.allocUnsafe(pieceSize);
  let used = 0;
  const emit = (byte: number): void => {
    piece[used++] = byte;
    if (used < pieceSize) return;
    pieces.push(piece);
    piece = Buffer.allocUnsafe(pieceSize);
    used = 0;
  };
  const size = 100_000 * level;
  const next = bzip2.decompress(bits, emit, new Int32Array(size), size, sum);
  if (used > 0) pieces.push(piece.subarray(0, used));
  return next;
}

function damaged(name: Compression, error: unknown): FlkError {
  if (error instanceof FlkError) return error;
  if (isTruncation(error)) return new ArchiveTruncated(`the ${name} stream breaks off`, error);
  return archiveError(
    `the ${name} stream is damaged: ${error instanceof Error ? error.message : String(error)}`,
    error,
  );
}

/** How the decoders say that they want more: zlib (also for zstd), liblzma, fzstd by number, unbzip2 by reading past its last chunk. */
function isTruncation(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const code: unknown = Reflect.get(error, 'code');
  return (
    code === 'Z_BUF_ERROR' || error.name === 'LZMA_BUF_ERROR' || code === 5 || error instanceof TypeError
  );
}
