/**
 * Hash parts in bytes, one exchanged for another; and the hash of a NAR in which its own path does not count, from which the path of
 * a tree that names itself is computed. Format: Nix 2.34's hash modulo, of `nix store make-content-addressed`.
 */
import { createHash } from 'node:crypto';
import { hashPartLength } from './store-path.ts';

/** Puts one hash part in another's place, wherever it occurs in a stream, also across the borders of chunks. */
export class HashPartRewriter {
  /** Where, from the stream's beginning, replaced parts began. */
  readonly positions: number[] = [];
  readonly #from: Buffer;
  readonly #to: Buffer;
  readonly #emit: (chunk: Buffer) => void;
  /** What may be the beginning of a part that ends in the next chunk. */
  #tail: Buffer = Buffer.alloc(0);
  #emitted = 0;

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
      this.positions.push(this.#emitted + at);
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
    this.#emitted += bytes.length;
    if (bytes.length > 0) this.#emit(bytes);
  }
}

/** Hashes a NAR as if its own hash part were zeros; where that stood counts. */
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
    const { positions } = this.#rewriter;
    for (const position of positions) this.#hash.update(`|${position}`);
    return { digest: this.#hash.digest(), namesItself: positions.length > 0 };
  }
}
