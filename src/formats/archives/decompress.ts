/** Streams of chunks, decompressed: gzip, xz, zstd, bzip2; told apart by their first bytes, never by a name. */
import type { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream';
import * as zlib from 'node:zlib';
import { FlkError } from '../../base/errors.ts';
import { ArchiveTruncated, archiveError } from './entry.ts';
import { ZstdWindowCheck } from './zstd-window.ts';

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

/** Throws FLK_LIMIT where a zstd stream wants too much memory, FLK_ARCHIVE_INVALID where the stream is damaged, as ArchiveTruncated where it ends too early. Never holds more than a few windows of it. */
export function decompress(source: Readable, compression: Compression): AsyncIterable<Buffer> {
  switch (compression) {
    case 'none':
      return source;
    case 'gzip':
      return through(source, async () => zlib.createGunzip({ chunkSize: 256 * 1024 }), compression);
    case 'xz':
      return through(
        source,
        // The limit holds what xz -9 needs (65 MiB) and some; a header may ask for 4 GiB.
        async () =>
          (await import('lzma-native')).createStream('streamDecoder', {
            memlimit: 256 * 1024 * 1024,
            flags: 'CONCATENATED',
          }),
        compression,
      );
    case 'zstd':
      return nativeZstd
        ? through(source, async () => nativeZstd(), compression)
        : pushed(source, fzstd, compression);
    case 'bzip2':
      return pushed(source, bunzip2, compression);
  }
}

async function* through(
  source: Readable,
  open: () => Promise<Transform>,
  name: Compression,
): AsyncGenerator<Buffer> {
  const decoder = await open();
  // The iteration below sees the error, whichever of the two streams it is from.
  pipeline(source, decoder, () => {});
  try {
    for await (const chunk of decoder) yield chunk as Buffer;
  } catch (error) {
    throw damaged(name, error);
  }
}

/** A decoder that is fed and calls back at once: feeds chunks in, and gives what has come out since. */
type PushDecoder = (emit: (chunk: Buffer) => void) => Promise<{ push(chunk: Buffer, last: boolean): void }>;

async function* pushed(source: Readable, open: PushDecoder, name: Compression): AsyncGenerator<Buffer> {
  const out: Buffer[] = [];
  const decoder = await open((chunk) => out.push(chunk));
  const push = (chunk: Buffer, last: boolean) => {
    try {
      decoder.push(chunk, last);
    } catch (error) {
      throw damaged(name, error);
    }
  };
  for await (const chunk of source as AsyncIterable<Buffer>) {
    // Four bytes of zstd can become 128 KiB; small bites keep what waits in `out` small.
    for (let at = 0; at < chunk.length; at += 2048) {
      push(chunk.subarray(at, at + 2048), false);
      yield* out.splice(0);
    }
  }
  push(Buffer.alloc(0), true);
  yield* out;
}

const fzstd: PushDecoder = async (emit) => {
  const { Decompress } = await import('fzstd');
  const decoder = new Decompress((chunk) => emit(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length)));
  const window = new ZstdWindowCheck();
  return {
    push(chunk, last) {
      window.push(chunk);
      decoder.push(chunk, last);
    },
  };
};

const bunzip2: PushDecoder = async (emit) => {
  const { default: unbzip2 } = await import('unbzip2-stream');
  const stream = unbzip2();
  let failure: unknown;
  stream.on('data', emit);
  stream.on('error', (error: unknown) => {
    failure ??= error;
  });
  return {
    push(chunk, last) {
      if (last) stream.end();
      else stream.write(chunk);
      if (failure !== undefined) throw failure;
    },
  };
};

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
