/** Two buffers between a socket and its reader: nothing is lost, and what is lent stays as it was until the next is asked for. */
import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LentChunks } from '../../../src/base/lent-chunks.ts';

const all = randomBytes(4_000_000);

/** Reads from `all` as Node does: into the room that it was shown after the last read, and after it was told to stop as much as TLS does. */
class Socket {
  readonly chunks: LentChunks;
  #room: Buffer;
  #at = 0;
  #reading = true;
  /** Bytes that may come after it was told to stop. */
  #late = 0;
  readonly #lateness: number;

  constructor(least: number, lateness = 0) {
    this.#lateness = lateness;
    const resume = (): void => {
      this.#reading = true;
    };
    this.chunks = new LentChunks({ least, resume, leave: () => {} });
    this.#room = this.chunks.room();
  }

  /** Whether there was anything to read and somebody to read it. */
  read(size: number): boolean {
    const most = this.#reading ? all.length : this.#late;
    const count = Math.min(size, most, this.#room.length, all.length - this.#at);
    if (count === 0) return false;
    all.copy(this.#room, 0, this.#at, this.#at + count);
    this.#at += count;
    const wasReading = this.#reading;
    this.#reading = this.chunks.take(this.#room.subarray(0, count));
    if (!this.#reading) this.#late = wasReading ? this.#lateness : this.#late - count;
    this.#room = this.chunks.room();
    if (this.#at === all.length) this.chunks.close('whole');
    return true;
  }
}

describe('lent chunks', () => {
  it.each([1, 1000, 128 * 1024])(
    'are what was read, in its order, however the two take turns; from %i bytes',
    async (least) => {
      const turns = fc.array(fc.oneof(fc.integer({ min: 1, max: 300_000 }), fc.constant('ask' as const)), {
        minLength: 1,
        maxLength: 60,
      });
      await fc.assert(
        fc.asyncProperty(turns, async (turns) => {
          const socket = new Socket(least);
          let got = 0;
          let lent: Buffer = Buffer.alloc(0);
          let asked: Promise<void> | undefined;
          let done = false;
          const take = (result: IteratorResult<Buffer, undefined>): void => {
            asked = undefined;
            if (result.done) done = true;
            else {
              lent = result.value;
              got += lent.length;
            }
          };
          for (let i = 0; !done; i++) {
            const turn = turns[i % turns.length]!;
            // Whatever happened meanwhile, what is lent has not changed.
            expect(lent.equals(all.subarray(got - lent.length, got))).toBe(true);
            if (turn !== 'ask') socket.read(turn);
            else if (!asked) {
              lent = Buffer.alloc(0);
              asked = socket.chunks.next().then(take);
            }
            await new Promise((resolve) => setImmediate(resolve));
            // Turns that never ask, or never read, would never end.
            if (i % turns.length === 0) {
              socket.read(200_000);
              if (!asked) {
                expect(lent.equals(all.subarray(got - lent.length, got))).toBe(true);
                lent = Buffer.alloc(0);
                asked = socket.chunks.next().then(take);
              }
            }
          }
          expect(got).toBe(all.length);
        }),
        { numRuns: 60 },
      );
    },
    60_000,
  );

  it('are handed on to who waits as soon as there is enough', async () => {
    const socket = new Socket(1000);
    let length = 0;
    void socket.chunks.next().then(({ value }) => {
      length = value?.length ?? 0;
    });
    socket.read(999);
    await new Promise((resolve) => setImmediate(resolve));
    expect(length).toBe(0);
    socket.read(1);
    await new Promise((resolve) => setImmediate(resolve));
    expect(length).toBe(1000);
  });

  it('stop the reading while nobody asks', () => {
    const socket = new Socket(1);
    let reads = 0;
    while (socket.read(10_000)) reads++;
    // Two that wait, each of little more than 128 KiB.
    expect(reads).toBeLessThanOrEqual(30);
  });

  it('end with an error after what had come', async () => {
    const chunks = new LentChunks({ least: 100, resume: () => {}, leave: () => {} });
    chunks.take(Buffer.from('some'));
    chunks.close(new Error('broken'));
    chunks.close('whole');
    expect((await chunks.next()).value?.toString()).toBe('some');
    await expect(chunks.next()).rejects.toThrow('broken');
  });
});
