/** How many commits a pack holds, told while it passes by: nothing of it is kept but where its commits begin. */
import { createHash } from 'node:crypto';
import {
  damagedPack,
  entryHead,
  PackTail,
  packCount,
  packHeadSize,
  packKinds,
  packTooLarge,
  packTrailerSize,
} from './pack-header.ts';
import { createInflater, type Inflater } from './pack-inflate.ts';

/** What no honest history exceeds. Ten times the largest there are. */
export interface CommitLimits {
  readonly objects: number;
  /** Of the whole pack, in bytes. */
  readonly size: number;
  /** Inflated, of all objects together, in bytes. */
  readonly work: number;
}

export const commitLimits: CommitLimits = { objects: 20_000_000, size: 8 * 2 ** 30, work: 256 * 2 ** 30 };

/**
 * Takes a pack in pieces and counts its commits, deltas of commits included. The objects are not read: whoever made the pack
 * decides which commits are in it. Its framing, its count of objects and its checksum are verified.
 */
export class CommitCounter {
  readonly #limits: CommitLimits;
  readonly #inflater: Inflater = createInflater();
  readonly #checksum = createHash('sha1');
  readonly #tail = new PackTail((bytes) => this.#checksum.update(bytes));
  /** Where commits begin: a delta tells only where its base does. */
  readonly #commits = new Set<number>();
  readonly #scratch = Buffer.allocUnsafeSlow(256 * 1024);
  #rest: Buffer = Buffer.alloc(0);
  #position = 0;
  #total = -1;
  #done = 0;
  #work = 0;
  /** Of the object whose zlib stream is passing: bytes of content still to come. */
  #missing: number | undefined;

  constructor(limits: CommitLimits = commitLimits) {
    this.#limits = limits;
  }

  /** Bytes so far. */
  get size(): number {
    return this.#position + this.#rest.length;
  }

  /** Takes the next bytes, which may be reused after the call. Throws FLK_GIT_PACK, FLK_LIMIT. */
  push(chunk: Buffer): void {
    this.#tail.push(chunk);
    const bytes = this.#rest.length > 0 ? Buffer.concat([this.#rest, chunk]) : chunk;
    if (this.#position + bytes.length > this.#limits.size)
      throw packTooLarge(`more than ${this.#limits.size} bytes`, this.#limits.size);
    let at = 0;
    if (this.#total < 0) {
      if (bytes.length < packHeadSize) {
        this.#rest = Buffer.from(bytes);
        return;
      }
      this.#total = packCount(bytes);
      if (this.#total > this.#limits.objects)
        throw packTooLarge(`${this.#total} objects`, this.#limits.objects);
      at = packHeadSize;
    }
    while (this.#done < this.#total) {
      if (this.#missing === undefined) {
        const start = this.#begin(bytes, at);
        if (start === undefined) break;
        at = start;
      }
      at = this.#skip(bytes, at);
      // Input left over means that the stream has ended; where none is left, the trailer at least is still to come.
      if (at === bytes.length) break;
      if (this.#missing !== 0)
        throw damagedPack(`an object before ${this.#position + at} does not have the size it promises`);
      this.#missing = undefined;
      this.#done++;
    }
    this.#rest = at < bytes.length ? Buffer.from(bytes.subarray(at)) : Buffer.alloc(0);
    this.#position += at;
    if (this.#done === this.#total && this.#rest.length > packTrailerSize)
      throw damagedPack('bytes follow its end');
  }

  /** The stream has ended. Throws FLK_GIT_PACK unless the pack was whole. */
  end(): number {
    if (this.#done !== this.#total || this.#rest.length !== packTrailerSize)
      throw damagedPack(`it breaks off after ${this.#done} of ${Math.max(0, this.#total)} objects`);
    if (!this.#checksum.digest().equals(this.#tail.bytes)) throw damagedPack('its checksum is wrong');
    return this.#commits.size;
  }

  /** Reads an object's head; gives where its zlib stream begins, undefined where the head goes on in the next chunk. */
  #begin(bytes: Buffer, at: number): number | undefined {
    const offset = this.#position + at;
    const head = entryHead(bytes, at, offset, this.#limits.work);
    if (!head) return undefined;
    // Whoever asks for a whole pack with deltas by offset gets no others.
    if (head.kind === packKinds.namedDelta)
      throw damagedPack(`the delta at ${offset} names a base, which was not asked for`);
    const ofCommit = head.kind === packKinds.offsetDelta && this.#commits.has(offset - head.distance);
    if (head.kind === packKinds.commit || ofCommit) this.#commits.add(offset);
    this.#missing = head.size;
    this.#inflater.begin();
    return head.end;
  }

  /** Inflates as far as the bytes go, or the stream does; gives where it stopped. */
  #skip(bytes: Buffer, at: number): number {
    const scratch = this.#scratch;
    for (;;) {
      this.#inflater.run(bytes, at, scratch, 0, scratch.length);
      const { made, used } = this.#inflater;
      at += used;
      this.#missing = (this.#missing ?? 0) - made;
      this.#work += made;
      if (this.#missing < 0) throw damagedPack('an object is longer than it promises');
      if (this.#work > this.#limits.work) throw packTooLarge('more content', this.#limits.work);
      if (made < scratch.length) return at;
    }
  }
}
