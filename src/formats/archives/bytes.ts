/** Reading a stream of chunks by exact amounts. */
import { ArchiveTruncated } from './entry.ts';

export class ByteReader {
  readonly #source: AsyncIterator<Buffer>;
  #chunk: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Buffer>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** False once every byte has been given out. */
  async #fill(): Promise<boolean> {
    while (this.#chunk.length === 0) {
      const next = await this.#source.next();
      if (next.done) return false;
      this.#chunk = next.value;
    }
    return true;
  }

  #take(max: number): Buffer {
    const taken = this.#chunk.subarray(0, max);
    this.#chunk = this.#chunk.subarray(taken.length);
    return taken;
  }

  /** The next `size` bytes, a copy; fewer than that left is FLK_ARCHIVE_INVALID, none at all gives undefined. */
  async exact(size: number, what: string): Promise<Buffer | undefined> {
    if (size > 0 && !(await this.#fill())) return undefined;
    const whole = Buffer.alloc(size);
    let done = 0;
    while (done < size) {
      if (!(await this.#fill())) throw new ArchiveTruncated(`${what} breaks off`);
      const part = this.#take(size - done);
      part.copy(whole, done);
      done += part.length;
    }
    return whole;
  }

  /** The next `size` bytes as they come. */
  async *chunks(size: number, what: string): AsyncGenerator<Buffer> {
    let left = size;
    while (left > 0) {
      if (!(await this.#fill())) throw new ArchiveTruncated(`${what} breaks off`);
      const part = this.#take(left);
      left -= part.length;
      yield part;
    }
  }

  /** Passes over `size` bytes. */
  async skip(size: number, what: string): Promise<void> {
    for await (const _ of this.chunks(size, what));
  }

  /** Everything that is left. */
  async *rest(): AsyncGenerator<Buffer> {
    while (await this.#fill()) yield this.#take(this.#chunk.length);
  }

  /** Lets go of what feeds this reader. */
  async close(): Promise<void> {
    await this.#source.return?.();
  }
}
