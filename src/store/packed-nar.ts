/** One archive of a binary cache, packed: unpacked, checked against what its narinfo promises, and written, as it arrives. */
import { createHash, type Hash } from 'node:crypto';
import { throwIfAborted } from '../base/concurrency.ts';
import { FlkError } from '../base/errors.ts';
import type { Span } from '../base/events.ts';
import { type ContentAddress, fileHasher } from '../formats/content-address.ts';
import { narHashOf } from '../formats/hash.ts';
import { NarParser } from '../formats/nar-parser.ts';
import type { NarInfo } from '../formats/narinfo.ts';
import { tee } from '../formats/tree-sinks.ts';
import { decompressFast } from './decompression.ts';
import { restoreTree } from './tree-files.ts';

export interface UnpackOptions {
  /** Told how much more of the archive has been written. */
  readonly wrote: (bytes: number) => void;
  /** Which the path's name was found to follow from. */
  readonly address: ContentAddress | undefined;
  readonly watched: Span;
  readonly signal: AbortSignal | undefined;
}

/**
 * Writes what is in an archive to a place, in one pass and without holding it. Throws FLK_CACHE_INVALID, FLK_NAR_HASH_MISMATCH and
 * what decompressing and parsing throw, as soon as it is clear that the archive is not what was promised.
 */
export async function unpackNar(
  info: NarInfo,
  packed: AsyncIterable<Buffer>,
  place: string,
  { address, wrote, watched, signal }: UnpackOptions,
): Promise<void> {
  const { path, url, fileSize, fileHash, narSize, narHash } = info;
  // An archive that is not packed is hashed once.
  const isHashedTwice = fileHash !== undefined && !(info.compression === 'none' && fileHash === narHash);
  const outer: { readonly hash: Hash | undefined; size: number } = {
    hash: isHashedTwice ? createHash('sha256') : undefined,
    size: 0,
  };
  const inner = { hash: createHash('sha256'), size: 0 };
  async function* count(): AsyncGenerator<Buffer> {
    for await (const chunk of packed) {
      outer.size += chunk.length;
      if (fileSize !== undefined && outer.size > fileSize)
        throw wrongSize(url, `more than ${fileSize}`, fileSize);
      outer.hash?.update(chunk);
      watched.progress(outer.size, fileSize, 'bytes');
      yield chunk;
    }
  }
  const writer = restoreTree(place);
  const file = address?.of === 'file' ? fileHasher() : undefined;
  const parser = new NarParser(file ? tee(writer, file) : writer);
  const bytes =
    info.compression === 'none' ? count() : decompressFast(count(), info.compression, fileSize, narSize);
  try {
    for await (const chunk of bytes) {
      throwIfAborted(signal);
      inner.size += chunk.length;
      if (inner.size > narSize) throw wrongSize(`the NAR in ${url}`, `more than ${narSize}`, narSize);
      inner.hash.update(chunk);
      parser.push(chunk);
      wrote(chunk.length);
    }
  } finally {
    writer.close();
  }
  if (inner.size !== narSize) throw wrongSize(`the NAR in ${url}`, String(inner.size), narSize);
  parser.end();
  const found = narHashOf(inner.hash.digest());
  if (found !== narHash) throw wrongHash(`${path} is not what its narinfo promises`, found, narHash);
  if (fileSize !== undefined && outer.size !== fileSize) throw wrongSize(url, String(outer.size), fileSize);
  if (outer.hash && narHashOf(outer.hash.digest()) !== fileHash)
    throw new FlkError('FLK_CACHE_INVALID', `${url} does not have the FileHash that its narinfo promises`);
  // The path follows from this hash, not from the NAR's, which anybody may claim.
  const content = address?.of === 'nar' ? found : file?.digest();
  if (address && content !== address.hash)
    throw wrongHash(`${path} is not what its name promises`, content ?? 'not one plain file', address.hash);
}

const wrongSize = (what: string, found: string, wanted: number): FlkError =>
  new FlkError('FLK_CACHE_INVALID', `${what} has another size than its narinfo promises`, {
    facts: { found: `${found} bytes`, wanted: `${wanted} bytes` },
  });

export const wrongHash = (what: string, found: string, wanted: string): FlkError =>
  new FlkError('FLK_NAR_HASH_MISMATCH', what, { facts: { found, wanted } });
