/** Deltas: an object told as copies out of another one and bytes of its own. Source: gitformat-pack(5), "Deltified representation". */
import { FlkError } from '../base/errors.ts';

/** What a delta says of itself before its instructions: the sizes of the two objects. */
export function deltaSizes(delta: Buffer): {
  readonly base: number;
  readonly result: number;
  readonly start: number;
} {
  const base = readSize(delta, 0);
  const result = readSize(delta, base.end);
  return { base: base.value, result: result.value, start: result.end };
}

/**
 * Builds the object that `delta` makes out of `base` into `output` from `at` on, which has the room that `deltaSizes` asks for.
 * Throws FLK_GIT_PACK for an instruction that reaches outside either, and for a result of another size.
 */
export function applyDelta(base: Buffer, delta: Buffer, output: Buffer, at: number): void {
  const sizes = deltaSizes(delta);
  if (sizes.base !== base.length) throw broken(`it is for a base of ${sizes.base} bytes, not ${base.length}`);
  const end = at + sizes.result;
  let to = at;
  let next = sizes.start;
  const byte = (): number => {
    const value = delta[next++];
    if (value === undefined) throw broken('it breaks off');
    return value;
  };
  while (next < delta.length) {
    const op = byte();
    if (op === 0) throw broken('it uses the reserved instruction 0');
    if (op < 0x80) {
      if (next + op > delta.length || to + op > end) throw broken('it inserts past an end');
      copyShort(delta, next, op, output, to);
      next += op;
      to += op;
      continue;
    }
    let offset = 0;
    let size = 0;
    for (let bit = 0; bit < 4; bit++) if (op & (1 << bit)) offset += byte() * 2 ** (8 * bit);
    for (let bit = 0; bit < 3; bit++) if (op & (0x10 << bit)) size += byte() * 2 ** (8 * bit);
    if (size === 0) size = 0x10000;
    if (offset + size > base.length || to + size > end) throw broken('it copies past an end');
    if (size < 80) copyShort(base, offset, size, output, to);
    else base.copy(output, to, offset, offset + size);
    to += size;
  }
  if (to !== end) throw broken(`it makes ${to - at} bytes and promised ${sizes.result}`);
}

/** Calling out to copy a few bytes costs more than the loop. */
function copyShort(source: Buffer, from: number, size: number, target: Buffer, to: number): void {
  for (let i = 0; i < size; i++) target[to + i] = source[from + i]!;
}

/** Seven bits a byte, least significant first, the top bit for "goes on". */
function readSize(bytes: Buffer, at: number): { value: number; end: number } {
  let value = 0;
  for (let i = 0; i < 7; i++) {
    const byte = bytes[at + i];
    if (byte === undefined) break;
    value += (byte & 0x7f) * 2 ** (7 * i);
    if (byte < 0x80) return { value, end: at + i + 1 };
  }
  throw broken('its sizes cannot be read');
}

const broken = (what: string): FlkError =>
  new FlkError('FLK_GIT_PACK', `a delta in the pack is broken: ${what}`);
