/**
 * Reads a Git pack as it arrives: inflates each object, resolves deltas, and checks every name, the count and the trailer.
 * Source: gitformat-pack(5), version 2, SHA-1. An object's name is checked as plain SHA-1: a pair of colliding objects made on
 * purpose is not recognised here, and the NAR hash in a lock, a SHA-256, is what a tree's identity rests on.
 */
import { createHash, hash } from 'node:crypto';
import { FlkError } from '../base/errors.ts';
import { applyDelta, deltaSizes } from './pack-delta.ts';
import {
  damagedPack as damaged,
  entryHead,
  PackTail,
  packCount,
  packHeadSize,
  packKinds,
  packTrailerSize,
  packTooLarge as tooMuch,
} from './pack-header.ts';
import { createInflater, type Inflater } from './pack-inflate.ts';
import type { ObjectId } from './pack-objects.ts';

/** What no honest pack exceeds. Sizes in bytes. */
export interface PackLimits {
  readonly objects: number;
  /** Of one object, which is streamed where it is a large file. */
  readonly objectSize: number;
  /** Of one object that has to be in memory whole: a tree, a delta, its base, its result. */
  readonly memorySize: number;
  readonly deltaDepth: number;
  /** All inflating and all applying of deltas together, repetitions included. */
  readonly work: number;
}

export const packLimits: PackLimits = {
  objects: 20_000_000,
  objectSize: 16 * 2 ** 30,
  memorySize: 512 * 2 ** 20,
  deltaDepth: 4095,
  work: 256 * 2 ** 30,
};

type ObjectType = 'commit' | 'tree' | 'blob' | 'tag';

/** Indexed by the number that stands in the pack. */
const typeNames: readonly (ObjectType | undefined)[] = [undefined, 'commit', 'tree', 'blob', 'tag'];

/** An object of the pack. Its content may or may not be in memory: ask `PackReader.content`. */
export interface PackedObject {
  /** Undefined as long as the object is a delta whose base has not come. */
  type: ObjectType | undefined;
  /** Bytes of content. */
  size: number;
  /** Where it stands in the pack. */
  readonly offset: number;
  /** Where its zlib stream begins, and how much comes out of it. */
  readonly start: number;
  readonly inflatedSize: number;
  /** For a delta, once it has come. */
  base: PackedObject | undefined;
  /** Deltas between this and a whole object. */
  depth: number;
  /** `room`, then the content, while it is held. */
  held: Buffer | undefined;
}

export interface PackOptions {
  /** Gives back bytes of the pack that were pushed before, fewer at its end. */
  readonly reread: (offset: number, length: number) => Buffer;
  /**
   * Told of each object as soon as it is verified, while its content is still in memory. Answers whether it is likely to ask for
   * the content after the call, so that it is worth holding.
   */
  readonly onObject: (id: ObjectId, object: PackedObject) => boolean;
  readonly limits?: PackLimits;
}

/** Before each content there is room for `blob 1234\0`, so that its name is one call over one buffer. */
const room = 32;
/** Files above this are never in memory whole, unless a delta needs them. */
const streamedSize = 32 * 2 ** 20;
/** Contents kept because nobody has asked for them yet. What does not fit is inflated again when it is asked for. */
const heldLimit = 64 * 2 ** 20;
/** Bases and results of deltas, kept because the next delta is likely to want them. */
const recentLimit = 32 * 2 ** 20;
/** Small contents share buffers of this size. */
const slabSize = 4 * 2 ** 20;

/** The object whose zlib stream is being read. */
interface Current {
  readonly kind: number;
  readonly offset: number;
  readonly start: number;
  readonly size: number;
  readonly baseOffset: number;
  readonly baseId: ObjectId | undefined;
  readonly sink: Buffer;
  /** A file too large for memory: only its name is computed, through a window. */
  readonly digest: ReturnType<typeof createHash> | undefined;
  inflated: number;
}

export class PackReader {
  readonly #reread: PackOptions['reread'];
  readonly #onObject: PackOptions['onObject'];
  readonly #limits: PackLimits;
  readonly #byId = new Map<ObjectId, PackedObject>();
  readonly #byOffset = new Map<number, PackedObject>();
  /** Deltas that wait for a base, by its name or its offset. */
  readonly #parked = new Map<ObjectId | number, PackedObject[]>();
  readonly #arriving: Inflater = createInflater();
  readonly #again: Inflater = createInflater();
  readonly #checksum = createHash('sha1');
  readonly #tail = new PackTail((bytes) => this.#checksum.update(bytes));
  /** Bytes that came and could not be used yet, and where they stand in the pack. */
  #rest: Buffer = Buffer.alloc(0);
  #position = 0;
  #current: Current | undefined;
  #count = -1;
  #done = 0;
  #heldSize = 0;
  readonly #recent = new Map<PackedObject, Buffer>();
  #recentSize = 0;
  #work = 0;
  #scratch = Buffer.allocUnsafeSlow(1 << 20);
  #slab: Buffer = Buffer.alloc(0);
  #slabUsed = 0;
  /** The object that `onObject` is being told of, and its bytes. */
  #fresh: PackedObject | undefined;
  #freshBytes: Buffer | undefined;

  constructor(options: PackOptions) {
    this.#reread = options.reread;
    this.#onObject = options.onObject;
    this.#limits = options.limits ?? packLimits;
  }

  /** How many objects the pack says it has; undefined before its first bytes. */
  get total(): number | undefined {
    return this.#count < 0 ? undefined : this.#count;
  }

  /** Objects read so far. */
  get done(): number {
    return this.#done;
  }

  /** Takes the next bytes, which `reread` must know already. They may be reused after the call. */
  push(chunk: Buffer): void {
    this.#tail.push(chunk);
    const bytes = this.#rest.length > 0 ? Buffer.concat([this.#rest, chunk]) : chunk;
    let at = 0;
    if (this.#count < 0) {
      if (bytes.length < packHeadSize) {
        this.#rest = Buffer.from(bytes);
        return;
      }
      this.#count = packCount(bytes);
      if (this.#count > this.#limits.objects) throw tooMuch(`${this.#count} objects`, this.#limits.objects);
      at = packHeadSize;
    }
    while (this.#done < this.#count) {
      if (!this.#current) {
        this.#current = this.#readHeader(bytes, at);
        if (!this.#current) break;
        at = this.#current.start - this.#position;
        this.#arriving.begin();
      }
      at += this.#inflateFrom(bytes, at, this.#current);
      // Input left over means that the stream has ended; where none is left, the trailer at least is still to come.
      if (at === bytes.length) break;
      const whole = this.#current;
      if (whole.inflated !== whole.size)
        throw damaged(`the object at ${whole.offset} does not have the ${whole.size} bytes it promises`);
      this.#current = undefined;
      this.#done++;
      this.#finish(whole);
    }
    this.#rest = at < bytes.length ? Buffer.from(bytes.subarray(at)) : Buffer.alloc(0);
    this.#position += at;
    if (this.#done === this.#count && this.#rest.length > packTrailerSize)
      throw damaged('bytes follow its end');
  }

  /** The stream has ended. Throws FLK_GIT_PACK unless the pack was whole. Gives the trailer, which names the pack. */
  end(): Buffer {
    if (this.#done !== this.#count || this.#rest.length !== packTrailerSize)
      throw damaged(`it breaks off after ${this.#done} of ${Math.max(0, this.#count)} objects`);
    if (!this.#checksum.digest().equals(this.#tail.bytes)) throw damaged('its checksum is wrong');
    if (this.#parked.size > 0) throw damaged('a delta’s base is not in it');
    return this.#tail.bytes;
  }

  get(id: ObjectId): PackedObject | undefined {
    return this.#byId.get(id);
  }

  /** The content, whole. Good until the pack reads on. */
  content(object: PackedObject): Buffer {
    return this.#bytes(object).subarray(room, room + object.size);
  }

  /** The content in pieces, each only good during the call: a large file's never is in memory whole. */
  stream(object: PackedObject, take: (piece: Buffer) => void): void {
    if (object.size === 0) return;
    if (object.base || object.size <= streamedSize) {
      take(this.content(object));
      return;
    }
    const window = Buffer.allocUnsafeSlow(1 << 18);
    this.#inflateAgain(object, (inflater, input, from) => {
      inflater.run(input, from, window, 0, window.length);
      if (inflater.made > 0) take(window.subarray(0, inflater.made));
    });
  }

  /** Whoever asked for it does not ask again, as far as he knows: it need not be held. */
  release(object: PackedObject): void {
    if (object.held === undefined) return;
    this.#heldSize -= object.held.length;
    object.held = undefined;
  }

  /** undefined where the header goes on in the next chunk. */
  #readHeader(bytes: Buffer, at: number): Current | undefined {
    const offset = this.#position + at;
    const head = entryHead(bytes, at, offset, this.#limits.objectSize);
    if (!head) return undefined;
    const { kind, size, baseId } = head;
    const baseOffset = kind === packKinds.offsetDelta ? offset - head.distance : 0;
    if (kind === packKinds.offsetDelta && !this.#byOffset.has(baseOffset))
      throw damaged(`the delta at ${offset} has no base`);
    const streamed = kind === packKinds.blob && size > streamedSize;
    if (!streamed && size > this.#limits.memorySize)
      throw tooMuch(`an object of ${size} bytes that is not a file`, this.#limits.memorySize);
    const digest = streamed ? createHash('sha1').update(`blob ${size}\0`) : undefined;
    const sink = this.#scratchOf(streamed ? 1 << 20 : room + size + 1);
    return {
      kind,
      offset,
      start: this.#position + head.end,
      size,
      baseOffset,
      baseId,
      sink,
      digest,
      inflated: 0,
    };
  }

  /** How many bytes it took. */
  #inflateFrom(bytes: Buffer, at: number, current: Current): number {
    const inflater = this.#arriving;
    if (!current.digest) {
      inflater.run(bytes, at, current.sink, room + current.inflated, room + current.size + 1);
      current.inflated += inflater.made;
      this.#spend(inflater.made);
      return inflater.used;
    }
    const from = at;
    do {
      inflater.run(bytes, at, current.sink, 0, current.sink.length);
      current.digest.update(current.sink.subarray(0, inflater.made));
      current.inflated += inflater.made;
      this.#spend(inflater.made);
      at += inflater.used;
    } while (inflater.made === current.sink.length && current.inflated <= current.size);
    return at - from;
  }

  #finish(current: Current): void {
    const { kind, offset, start, size, sink } = current;
    const object: PackedObject = {
      type: typeNames[kind],
      size,
      offset,
      start,
      inflatedSize: size,
      base: undefined,
      depth: 0,
      held: undefined,
    };
    this.#byOffset.set(offset, object);
    if (object.type !== undefined) {
      const id = (current.digest?.digest('binary') as ObjectId | undefined) ?? nameOf(object, sink);
      this.#settle(object, id, current.digest ? undefined : sink);
      return;
    }
    const key = current.baseId ?? current.baseOffset;
    const base = typeof key === 'number' ? this.#byOffset.get(key) : this.#byId.get(key);
    if (base?.type === undefined) {
      const others = this.#parked.get(key);
      if (others) others.push(object);
      else this.#parked.set(key, [object]);
      return;
    }
    const bytes = this.#resolve(object, base, sink.subarray(room, room + size));
    this.#settle(object, nameOf(object, bytes), bytes);
  }

  /** An object is known, and with it the deltas that waited for it, and those that waited for them. */
  #settle(object: PackedObject, id: ObjectId, bytes: Buffer | undefined): void {
    this.#announce(object, id, bytes);
    if (this.#parked.size === 0) return;
    const known: { object: PackedObject; id: ObjectId }[] = [{ object, id }];
    for (let next = known.pop(); next; next = known.pop()) {
      for (const key of [next.id, next.object.offset]) {
        const waiting = this.#parked.get(key) ?? [];
        this.#parked.delete(key);
        for (const dependent of waiting) {
          const delta = this.#inflateWhole(dependent).subarray(room);
          const resolved = this.#resolve(dependent, next.object, delta);
          const name = nameOf(dependent, resolved);
          this.#announce(dependent, name, resolved);
          known.push({ object: dependent, id: name });
        }
      }
    }
  }

  /** Makes a delta an object like its base; `room` and its content. */
  #resolve(object: PackedObject, base: PackedObject, delta: Buffer): Buffer {
    const { result } = deltaSizes(delta);
    if (result > this.#limits.memorySize)
      throw tooMuch(`a delta that makes ${result} bytes`, this.#limits.memorySize);
    if (base.depth >= this.#limits.deltaDepth) throw tooMuch('a chain of deltas', this.#limits.deltaDepth);
    const bytes = this.#apply(base, this.#bytes(base), delta, result);
    object.type = base.type;
    object.base = base;
    object.depth = base.depth + 1;
    object.size = result;
    this.#remember(object, bytes);
    return bytes;
  }

  #apply(base: PackedObject, baseBytes: Buffer, delta: Buffer, size: number): Buffer {
    this.#spend(size);
    const bytes = this.#allocate(room + size);
    applyDelta(baseBytes.subarray(room, room + base.size), delta, bytes, room);
    return bytes;
  }

  #announce(object: PackedObject, id: ObjectId, bytes: Buffer | undefined): void {
    if (!this.#byId.has(id)) this.#byId.set(id, object);
    if (bytes === undefined) {
      this.#onObject(id, object);
      return;
    }
    this.#fresh = object;
    this.#freshBytes = bytes;
    const mayBeAsked = this.#onObject(id, object);
    this.#fresh = undefined;
    this.#freshBytes = undefined;
    const size = room + object.size;
    if (!mayBeAsked || this.#heldSize + size > heldLimit) return;
    this.#heldSize += size;
    object.held = bytes.buffer === this.#scratch.buffer ? this.#copy(bytes.subarray(0, size)) : bytes;
  }

  /** `room` and the content, from wherever it is at hand. */
  #bytes(object: PackedObject): Buffer {
    const chain: PackedObject[] = [];
    let bytes: Buffer | undefined;
    // A chain may be thousands of deltas long, so it is gone down in a loop, not by recursion.
    for (let at: PackedObject | undefined = object; at; at = at.base) {
      bytes = this.#atHand(at);
      if (bytes) break;
      chain.push(at);
    }
    for (let next = chain.pop(); next; next = chain.pop()) {
      const inflated = this.#inflateWhole(next);
      if (!next.base || !bytes) bytes = inflated;
      else bytes = this.#apply(next.base, bytes, inflated.subarray(room), next.size);
      this.#remember(next, bytes);
    }
    if (!bytes) throw new FlkError('FLK_INTERNAL', 'an object of the pack has no content');
    return bytes;
  }

  #atHand(object: PackedObject): Buffer | undefined {
    if (object === this.#fresh) return this.#freshBytes;
    if (object.held) return object.held;
    const recent = this.#recent.get(object);
    if (!recent) return undefined;
    this.#recent.delete(object);
    this.#recent.set(object, recent);
    return recent;
  }

  #remember(object: PackedObject, bytes: Buffer): void {
    if (bytes.length > recentLimit / 4 || this.#recent.has(object)) return;
    this.#recent.set(object, bytes);
    this.#recentSize += bytes.length;
    for (const [oldest, old] of this.#recent) {
      if (this.#recentSize <= recentLimit) break;
      this.#recent.delete(oldest);
      this.#recentSize -= old.length;
    }
  }

  /** `room` and what its zlib stream holds: the content, or the delta. */
  #inflateWhole(object: PackedObject): Buffer {
    const bytes = this.#allocate(room + object.inflatedSize + 1);
    let end = room;
    this.#inflateAgain(object, (inflater, input, from) => {
      inflater.run(input, from, bytes, end, bytes.length);
      end += inflater.made;
    });
    return bytes.subarray(0, room + object.inflatedSize);
  }

  /** Reads an object's zlib stream once more. `step` runs the inflater over the input it is given. */
  #inflateAgain(object: PackedObject, step: (inflater: Inflater, input: Buffer, from: number) => void): void {
    const inflater = this.#again;
    inflater.begin();
    let offset = object.start;
    let missing = object.inflatedSize;
    while (missing > 0) {
      const input = this.#reread(offset, Math.min(missing + (missing >> 3) + 64, 1 << 18));
      if (input.length === 0) break;
      let at = 0;
      do {
        step(inflater, input, at);
        missing -= inflater.made;
        this.#spend(inflater.made);
        at += inflater.used;
      } while (at > 0 && at < input.length && missing > 0 && inflater.made > 0);
      offset += at;
      if (at <= 0) break;
    }
    if (missing !== 0) throw damaged(`the object at ${object.offset} has changed since it was read`);
  }

  #allocate(size: number): Buffer {
    if (size > slabSize / 8) return Buffer.allocUnsafeSlow(size);
    if (this.#slabUsed + size > this.#slab.length) {
      this.#slab = Buffer.allocUnsafeSlow(slabSize);
      this.#slabUsed = 0;
    }
    const bytes = this.#slab.subarray(this.#slabUsed, this.#slabUsed + size);
    this.#slabUsed += size;
    return bytes;
  }

  #copy(bytes: Buffer): Buffer {
    const copy = this.#allocate(bytes.length);
    bytes.copy(copy);
    return copy;
  }

  #scratchOf(size: number): Buffer {
    if (this.#scratch.length < size) this.#scratch = Buffer.allocUnsafeSlow(size);
    return this.#scratch;
  }

  #spend(work: number): void {
    this.#work += work;
    if (this.#work > this.#limits.work) throw tooMuch('more content', this.#limits.work);
  }
}

/** Writes `blob 1234\0` into the room before the content and hashes both. */
function nameOf(object: PackedObject, bytes: Buffer): ObjectId {
  const header = `${object.type} ${object.size}\0`;
  const start = room - header.length;
  bytes.write(header, start, 'latin1');
  return hash('sha1', bytes.subarray(start, room + object.size), 'binary') as ObjectId;
}
