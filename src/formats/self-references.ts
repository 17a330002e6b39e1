/**
 * Hash parts in bytes, one exchanged for another; and the hash of a NAR in which its own path does not count, from which the path of
 * a tree that names itself is computed. As `nix store make-content-addressed` of Nix 2.34 hashes: where the path stood does not count
 * (in sources after 2.35 it does, so that such a Nix gives a tree that names itself another path).
 */
import { createHash } from 'node:crypto';
import { hashPartLength } from './store-path.ts';

/** Puts one hash part in another's place, wherever it occurs in a stream, also across the borders of chunks. */
export class HashPartRewriter {
  /** How many were replaced. */
  replaced = 0;
  readonly #from: Buffer;
  readonly #to: Buffer;
  readonly #emit: (chunk: Buffer) => void;
  /** What may be the beginning of a part that ends in the next chunk. */
  #tail: Buffer = Buffer.alloc(0);

  /** Each of 32 bytes. `emit`ted chunks are the receiver's. */
  constructor(from: Buffer, to: Buffer, emit: (chunk: Buffer) => void) {
    this.#from = from;
    this.#to = to;
    this.#emit = emit;
  }

  update(chunk: Buffer): void {
    const bytes = Buffer.concat([this.#tail, chunk]);
    let done = 0;
    for (let at = bytes.indexOf(this.#from); at >= 0; at = bytes.indexOf(this.#from, done)) {
      this.replaced++;
      this.#to.copy(bytes, at);
      done = at + hashPartLength;
    }
    done = Math.max(done, bytes.length - (hashPartLength - 1));
    this.#send(bytes.subarray(0, done));
    this.#tail = bytes.subarray(done);
  }

  end(): void {
    this.#send(this.#tail);
    this.#tail = Buffer.alloc(0);
  }

  #send(bytes: Buffer): void {
    if (bytes.length > 0) this.#emit(bytes);
  }
}

/** Hashes a NAR as if its own hash part were zeros. */
export class ModuloHasher {
  readonly #hash = createHash('sha256');
  readonly #rewriter: HashPartRewriter;

  constructor(ownHashPart: string) {
    this.#rewriter = new HashPartRewriter(
      Buffer.from(ownHashPart),
      Buffer.alloc(hashPartLength),
      (chunk) => void this.#hash.update(chunk),
    );
  }

  update(chunk: Buffer): void {
    this.#rewriter.update(chunk);
  }

  /** Once, after the last byte. */
  digest(): { readonly digest: Buffer; readonly namesItself: boolean } {
    this.#rewriter.end();
    return { digest: this.#hash.digest(), namesItself: this.#rewriter.replaced > 0 };
  }
}
