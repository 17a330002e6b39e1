/** Bytes of a socket, read into the same memory over and over. */

/** Bytes. */
const bufferSize = 256 * 1024;
/** Bytes: who has so many for somebody who is busy reads no more. The rest of the buffer is room for what is on its way. */
const enough = 128 * 1024;

export interface LentChunksOptions {
  /** Bytes that are gathered before they are handed on, up to 128 KiB. */
  readonly least: number;
  /** Reading may go on. */
  resume(): void;
  /** Nobody will ask any more. */
  leave(): void;
}

/**
 * Between a socket that reads where it is told to (`onread` of node:net) and whoever reads on: three buffers, of which one is lent, one
 * waits and one is filled. Node's own streams take fresh memory for each read, and a gigabyte of that costs more in page faults than all
 * else that is done with the bytes. A chunk is only good until the next one is asked for.
 */
export class LentChunks implements AsyncIterableIterator<Buffer> {
  readonly #options: LentChunksOptions;
  readonly #free: Buffer[] = [1, 2].map(() => Buffer.allocUnsafeSlow(bufferSize));
  #filling: Buffer = Buffer.allocUnsafeSlow(bufferSize);
  #filled = 0;
  /** What waits to be lent. */
  readonly #full: Buffer[] = [];
  #lent: Buffer | undefined;
  #paused = false;
  #end: 'open' | 'whole' | Error = 'open';
  /** Of whoever waits for a chunk, or for the end. */
  #wake: (() => void) | undefined;

  constructor(options: LentChunksOptions) {
    this.#options = options;
  }

  /** Where to read to. Asked after each read, also where the next one has to wait. */
  room(): Buffer {
    return this.#filling.subarray(this.#filled);
  }

  /**
   * Takes what was read, into `room()` or elsewhere, up to 128 KiB. False: no more is to be read until `resume`. What is on its way, as TLS
   * has some, is taken still.
   */
  take(bytes: Buffer): boolean {
    const room = this.room();
    // The room that there was when the read began may be behind us.
    if (bytes.buffer !== room.buffer || bytes.byteOffset !== room.byteOffset) room.set(bytes);
    this.#filled += bytes.length;
    if (this.#filled >= (this.#wake ? this.#options.least : enough)) this.#turn();
    this.#paused = this.#free.length === 0;
    return !this.#paused;
  }

  /** No more bytes will come. The first end counts. */
  close(end: 'whole' | Error): void {
    if (this.#end === 'open') this.#end = end;
    this.#wake?.();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Buffer, undefined>> {
    if (this.#lent) this.#free.push(Buffer.from(this.#lent.buffer));
    this.#lent = undefined;
    if (this.#full.length === 0 && this.#filled >= this.#options.least) this.#turn();
    while (this.#full.length === 0 && this.#end === 'open')
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    this.#wake = undefined;
    if (this.#full.length === 0 && this.#filled > 0) this.#turn();
    this.#lent = this.#full.shift();
    if (this.#paused && this.#free.length > 0) {
      this.#paused = false;
      this.#options.resume();
    }
    if (this.#lent) return { done: false, value: this.#lent };
    if (this.#end instanceof Error) throw this.#end;
    return { done: true, value: undefined };
  }

  async return(): Promise<IteratorResult<Buffer, undefined>> {
    this.#options.leave();
    return { done: true, value: undefined };
  }

  /** What is filled waits from now on; where no buffer is free, it goes on being filled. */
  #turn(): void {
    const next = this.#free.pop();
    if (!next) return;
    this.#full.push(this.#filling.subarray(0, this.#filled));
    this.#filling = next;
    this.#filled = 0;
    this.#wake?.();
  }
}
