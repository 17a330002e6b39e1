/**
 * How much memory a zstd stream asks for (RFC 8878, section 3.1.1): each frame’s header names a window, of any size up to terabytes,
 * and the decoder in JavaScript takes it at its word.
 */
import { FlkError } from '../../base/errors.ts';

/** What the zstd program unpacks without being asked to. */
const maxWindow = 128 * 2 ** 20;

/** Looks at a stream as it passes. */
export class ZstdWindowCheck {
  #held: Buffer = Buffer.alloc(0);
  /** Bytes before the next header. */
  #skip = 0;
  #inFrame = false;
  #checksum = false;

  /** Before the decoder gets these bytes. Throws FLK_LIMIT; damage is the decoder's to find. */
  push(chunk: Buffer): void {
    const data = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    let at = 0;
    for (;;) {
      const passed = Math.min(this.#skip, data.length - at);
      at += passed;
      this.#skip -= passed;
      if (this.#skip > 0) break;
      const length = this.#inFrame ? this.#block(data, at) : this.#frame(data, at);
      if (length === undefined) break;
      this.#skip = length;
    }
    this.#held = Buffer.from(data.subarray(at));
  }

  /** How far it is to the next header, undefined where this one is not whole yet. */
  #frame(data: Buffer, at: number): number | undefined {
    if (data.length - at < 8) return undefined;
    if ((data.readUInt32LE(at) & 0xfffffff0) >>> 0 === 0x184d2a50) return 8 + data.readUInt32LE(at + 4);
    const flags = data[at + 4]!;
    const single = (flags & 0x20) !== 0;
    const dictionary = [0, 1, 2, 4][flags & 3]!;
    const content = single && flags >> 6 === 0 ? 1 : [0, 2, 4, 8][flags >> 6]!;
    const start = at + 5 + (single ? 0 : 1) + dictionary;
    if (data.length < start + content) return undefined;
    const window = single ? contentSize(data, start, content) : windowSize(data[at + 5]!);
    if (window > maxWindow)
      throw new FlkError('FLK_LIMIT', `the zstd stream wants a window of ${window} bytes`, {
        facts: { found: String(window), wanted: `at most ${maxWindow}` },
      });
    this.#checksum = (flags & 4) !== 0;
    this.#inFrame = true;
    return start + content - at;
  }

  #block(data: Buffer, at: number): number | undefined {
    if (data.length - at < 3) return undefined;
    const header = data.readUIntLE(at, 3);
    const last = (header & 1) !== 0;
    if (last) this.#inFrame = false;
    // A block of one repeated byte holds it once.
    const size = ((header >> 1) & 3) === 1 ? 1 : header >> 3;
    return 3 + size + (last && this.#checksum ? 4 : 0);
  }
}

/**
 * The same bytes, which begin a stream, with a window that holds no more than what comes out: the decoder in JavaScript moves the whole
 * window for each block, 2 MiB for an archive of 2 KiB, whose packer did not know that it would be so small.
 */
export function withSmallWindow(start: Buffer, size: number): Buffer {
  const isFrame = start.length > 5 && start.readUInt32LE(0) === 0xfd2fb528;
  if (!isFrame || (start[4]! & 0x20) !== 0) return start;
  const exponent = Math.max(0, Math.ceil(Math.log2(size)) - 10);
  const descriptor = exponent << 3;
  if (exponent > 31 || descriptor >= start[5]!) return start;
  const changed = Buffer.from(start);
  changed[5] = descriptor;
  return changed;
}

function windowSize(descriptor: number): number {
  const base = 2 ** (10 + (descriptor >> 3));
  return base + (base / 8) * (descriptor & 7);
}

function contentSize(data: Buffer, at: number, bytes: number): number {
  if (bytes === 8) return Number(data.readBigUInt64LE(at));
  return data.readUIntLE(at, bytes) + (bytes === 2 ? 256 : 0);
}
