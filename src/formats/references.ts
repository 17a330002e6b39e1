/** Finds which store paths some bytes refer to: a reference is the hash part of a path, anywhere in them. */
import { hashPartLength } from './store-path.ts';

/** Whether a byte is a character of nixbase32. */
const inAlphabet = new Uint8Array(256);
for (const character of '0123456789abcdfghijklmnpqrsvwxyz') inAlphabet[character.charCodeAt(0)] = 1;

/**
 * Takes bytes in chunks (those of a NAR: `new NarWriter((chunk) => scanner.update(chunk))`) and remembers which of the given hash
 * parts occurred, across the borders of chunks too. Looks at one byte in 32 where the bytes are not nixbase32.
 */
export class ReferenceScanner {
  /** Those that were not met yet. */
  readonly #wanted: Set<string>;
  readonly #found = new Set<string>();
  /** Marks the first two characters of each wanted hash part, so that few windows are looked up. */
  readonly #beginnings = new Uint8Array(65536);
  /** The last 31 bytes so far, and room for the first 31 of the next chunk. */
  readonly #border = Buffer.alloc(2 * (hashPartLength - 1));
  #kept = 0;

  constructor(hashParts: Iterable<string>) {
    this.#wanted = new Set(hashParts);
    for (const part of this.#wanted) this.#beginnings[(part.charCodeAt(0) << 8) | part.charCodeAt(1)] = 1;
  }

  update(chunk: Buffer): void {
    if (this.#wanted.size === 0) return;
    const overlap = hashPartLength - 1;
    const head = chunk.copy(this.#border, this.#kept, 0, Math.min(chunk.length, overlap));
    const joined = this.#border.subarray(0, this.#kept + head);
    if (this.#kept > 0) this.#scan(joined);
    this.#scan(chunk);
    // What may be the beginning of a hash part that ends in the next chunk.
    const last = chunk.length >= overlap ? chunk : joined;
    this.#kept = Math.min(last.length, overlap);
    last.copy(this.#border, 0, last.length - this.#kept);
  }

  /** The hash parts met so far, in the order in which they first occurred. */
  found(): string[] {
    return [...this.#found];
  }

  #scan(bytes: Buffer): void {
    const end = bytes.length - hashPartLength;
    /** Bytes from the window's start that are known to be nixbase32. */
    let known = 0;
    for (let start = 0; start <= end; ) {
      // From the window's end: the last byte that does not fit decides how far the window jumps.
      let at = start + hashPartLength - 1;
      while (at >= start + known && inAlphabet[bytes[at]!]) at--;
      if (at >= start + known) {
        start = at + 1;
        known = 0;
        continue;
      }
      if (this.#beginnings[(bytes[start]! << 8) | bytes[start + 1]!]) this.#lookUp(bytes, start);
      start++;
      known = hashPartLength - 1;
    }
  }

  #lookUp(bytes: Buffer, start: number): void {
    const part = bytes.toString('latin1', start, start + hashPartLength);
    if (this.#wanted.delete(part)) this.#found.add(part);
  }
}
