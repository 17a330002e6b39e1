import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ReferenceScanner } from '../../../src/formats/references.ts';

const alphabet = '0123456789abcdfghijklmnpqrsvwxyz';
const part = fc.string({ minLength: 32, maxLength: 32, unit: fc.constantFrom(...alphabet) });

function scan(
  bytes: Buffer,
  parts: readonly string[],
  chunks: readonly number[] = [bytes.length || 1],
): string[] {
  const scanner = new ReferenceScanner(parts);
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const piece = Buffer.from(bytes.subarray(at, at + chunks[i % chunks.length]!));
    scanner.update(piece);
    at += piece.length;
    piece.fill(0x30);
  }
  return scanner.found().sort();
}

describe('a reference scan', () => {
  it('finds what a plain search finds, whatever the chunks', () => {
    const noise = fc.oneof(
      fc.uint8Array({ maxLength: 80 }).map((bytes) => Buffer.from(bytes)),
      fc.string({ maxLength: 80, unit: fc.constantFrom(...alphabet) }).map((text) => Buffer.from(text)),
      fc
        .string({ maxLength: 40, unit: fc.constantFrom('0', '1', 'e', '/') })
        .map((text) => Buffer.from(text)),
    );
    fc.assert(
      fc.property(
        fc.uniqueArray(part, { minLength: 1, maxLength: 5 }),
        fc.array(fc.oneof(noise, fc.nat(9)), { maxLength: 12 }),
        fc.array(fc.integer({ min: 1, max: 70 }), { minLength: 1, maxLength: 6 }),
        (parts, pieces, chunks) => {
          const bytes = Buffer.concat(
            pieces.map((piece) =>
              typeof piece === 'number' ? Buffer.from(parts[piece % parts.length]!) : piece,
            ),
          );
          expect(scan(bytes, parts, chunks)).toEqual(parts.filter((wanted) => bytes.includes(wanted)).sort());
        },
      ),
      { numRuns: 500 },
    );
  });

  it('finds one that touches others of its letters', () => {
    const wanted = '0123456789abcdfghijklmnpqrsvwxyz';
    for (let before = 0; before < 70; before++) {
      const bytes = Buffer.from(`${'0'.repeat(before)}${wanted}${'z'.repeat(before)}`);
      expect(scan(bytes, [wanted])).toEqual([wanted]);
      expect(scan(bytes, [wanted], [1])).toEqual([wanted]);
    }
  });

  it('finds nothing that is one letter off', () => {
    const wanted = '0123456789abcdfghijklmnpqrsvwxyz';
    expect(scan(Buffer.from(`/nix/store/${wanted.slice(0, 31)}0-name`), [wanted])).toEqual([]);
    expect(scan(Buffer.from(wanted.slice(1)), [wanted])).toEqual([]);
    expect(scan(Buffer.from(wanted.toUpperCase()), [wanted])).toEqual([]);
    expect(scan(Buffer.alloc(0), [wanted])).toEqual([]);
    expect(scan(Buffer.from(wanted), [])).toEqual([]);
  });
});
