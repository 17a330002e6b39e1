/** What stands before the content in a pack: its own head, and each object's. Source: gitformat-pack(5), version 2. */
import { FlkError } from '../base/errors.ts';
import type { ObjectId } from './pack-objects.ts';

/** Length of the SHA-1 over everything that ends a pack. */
export const packTrailerSize = 20;
/** Length of the pack's own head. */
export const packHeadSize = 12;

/** The number of objects, from a pack's first `packHeadSize` bytes. Throws FLK_GIT_PACK. */
export function packCount(bytes: Buffer): number {
  if (bytes.toString('latin1', 0, 4) !== 'PACK' || bytes.readUInt32BE(4) !== 2)
    throw damagedPack(
      `it begins with ${JSON.stringify(bytes.toString('latin1', 0, 8))}, which is no pack of version 2`,
    );
  return bytes.readUInt32BE(8);
}

/** The number that stands in the pack for each kind of object. */
export const packKinds = { commit: 1, tree: 2, blob: 3, tag: 4, offsetDelta: 6, namedDelta: 7 } as const;

const knownKinds: ReadonlySet<number> = new Set(Object.values(packKinds));

export interface EntryHead {
  /** One of `packKinds`. */
  readonly kind: number;
  /** Bytes that the zlib stream gives. */
  readonly size: number;
  /** For a delta of an object further up: how many bytes further up that begins. Else 0. */
  readonly distance: number;
  /** For a delta of an object by its name. */
  readonly baseId: ObjectId | undefined;
  /** Where in `bytes` the zlib stream begins. */
  readonly end: number;
}

/**
 * Reads an object's head at `bytes[at…]`; `offset` is where that stands in the pack. undefined where it goes on in the next chunk.
 * Throws FLK_GIT_PACK, and FLK_LIMIT for an object above `maxSize`.
 */
export function entryHead(bytes: Buffer, at: number, offset: number, maxSize: number): EntryHead | undefined {
  let byte = bytes[at++];
  if (byte === undefined) return undefined;
  const kind = (byte >> 4) & 7;
  let size = byte & 15;
  for (let scale = 16; byte & 0x80; scale *= 128) {
    byte = bytes[at++];
    if (byte === undefined) return undefined;
    size += (byte & 0x7f) * scale;
    if (size > maxSize) throw packTooLarge(`an object of ${size} bytes`, maxSize);
  }
  let distance = 0;
  let baseId: ObjectId | undefined;
  if (kind === packKinds.offsetDelta) {
    byte = bytes[at++];
    if (byte === undefined) return undefined;
    distance = byte & 0x7f;
    while (byte & 0x80) {
      byte = bytes[at++];
      if (byte === undefined) return undefined;
      distance = (distance + 1) * 128 + (byte & 0x7f);
      if (distance > offset) break;
    }
  } else if (kind === packKinds.namedDelta) {
    if (bytes.length < at + 20) return undefined;
    baseId = bytes.toString('latin1', at, at + 20) as ObjectId;
    at += 20;
  } else if (!knownKinds.has(kind))
    throw damagedPack(`the object at ${offset} is of the unknown type ${kind}`);
  return { kind, size, distance, baseId, end: at };
}

/** The SHA-1 of a pack without its trailer, which is only known to be the trailer at the end. */
export class PackTail {
  readonly #update: (bytes: Buffer) => void;
  #tail: Buffer = Buffer.alloc(0);

  /** `update` gets everything but the last twenty bytes, in order. */
  constructor(update: (bytes: Buffer) => void) {
    this.#update = update;
  }

  push(chunk: Buffer): void {
    if (chunk.length >= packTrailerSize) {
      this.#update(this.#tail);
      this.#update(chunk.subarray(0, -packTrailerSize));
      this.#tail = Buffer.from(chunk.subarray(-packTrailerSize));
    } else {
      const joined = Buffer.concat([this.#tail, chunk]);
      const end = Math.max(0, joined.length - packTrailerSize);
      this.#update(joined.subarray(0, end));
      this.#tail = joined.subarray(end);
    }
  }

  /** The last twenty bytes so far: the trailer, if nothing follows. */
  get bytes(): Buffer {
    return this.#tail;
  }
}

export const damagedPack = (what: string): FlkError =>
  new FlkError('FLK_GIT_PACK', `the pack is damaged: ${what}`);

export const packTooLarge = (what: string, limit: number): FlkError =>
  new FlkError('FLK_LIMIT', `the pack holds ${what}; at most ${limit} is taken`);
