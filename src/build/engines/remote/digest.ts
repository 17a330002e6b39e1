/** Blobs are named by the SHA-256 of their bytes and their size. */
import { createHash } from 'node:crypto';
import { FlkError } from '../../../base/errors.ts';
import { sha256 } from '../../../formats/hash.ts';
import type { Digest } from '../../../generated/remote-execution.ts';

export const blobDigest = (bytes: Buffer): Digest => ({
  hash: sha256(bytes).toString('hex'),
  sizeBytes: bytes.length,
});

/** As resource names have it, and maps. */
export const keyOf = ({ hash, sizeBytes }: Digest): string => `${hash}/${sizeBytes}`;

/** A digest that a server gave. Throws FLK_REMOTE_INTEGRITY where it is none. */
export function checkedDigest(digest: Digest | undefined, of: string): Digest {
  if (!digest) throw new FlkError('FLK_REMOTE_INTEGRITY', `the server gave no digest of ${of}`);
  const { hash, sizeBytes } = digest;
  if (!/^[0-9a-f]{64}$/.test(hash) || !Number.isSafeInteger(sizeBytes) || sizeBytes < 0)
    throw new FlkError('FLK_REMOTE_INTEGRITY', `the digest of ${of} is none`, {
      facts: { found: keyOf({ hash: hash.slice(0, 200), sizeBytes }) },
    });
  return digest;
}

/** Takes the bytes of a blob, and says whether they are the ones that were asked for. */
export class BlobCheck {
  readonly #wanted: Digest;
  readonly #hash = createHash('sha256');
  #size = 0;

  constructor(wanted: Digest) {
    this.#wanted = wanted;
  }

  /** Throws FLK_REMOTE_INTEGRITY as soon as there are too many. */
  update(chunk: Buffer): void {
    this.#size += chunk.length;
    if (this.#size > this.#wanted.sizeBytes) throw this.#other(`more than ${this.#wanted.sizeBytes} bytes`);
    this.#hash.update(chunk);
  }

  /** Throws FLK_REMOTE_INTEGRITY. */
  end(): void {
    const found = keyOf({ hash: this.#hash.digest('hex'), sizeBytes: this.#size });
    if (found !== keyOf(this.#wanted)) throw this.#other(found);
  }

  #other(found: string): FlkError {
    return new FlkError('FLK_REMOTE_INTEGRITY', 'the server sent other bytes than were asked for', {
      facts: { found, wanted: keyOf(this.#wanted) },
    });
  }
}

/** Throws FLK_REMOTE_INTEGRITY where the bytes are not the blob. */
export function assertBlob(wanted: Digest, bytes: Buffer): void {
  const check = new BlobCheck(wanted);
  check.update(bytes);
  check.end();
}
