import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  digestOf,
  fromNixBase32,
  narHashOf,
  parseHash,
  parseNarHash,
  sha256,
  toBase16,
  toNixBase32,
} from '../../../src/formats/hash.ts';
import { nixAvailable, nixCommand, nixReason } from '../../support/nix.ts';

// nix hash file, all three notations, of a file that holds `hello` and a newline.
const hello = {
  sri: 'sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=',
  base32: 'sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq',
  base16: 'sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03',
};

const digest = fc.uint8Array({ minLength: 32, maxLength: 32 });

describe('hashes', () => {
  it('reads every notation of one digest', () => {
    const wanted = sha256('hello\n');
    expect(toBase16(wanted)).toBe(hello.base16.slice(7));
    const spellings = [
      hello.sri,
      hello.base32,
      hello.base32.slice(7),
      hello.base16,
      hello.base16.slice(7),
      hello.base16.slice(7).toUpperCase(),
    ];
    for (const text of spellings) expect(parseHash(text).equals(wanted), text).toBe(true);
  });

  it('reads back what it prints', () => {
    fc.assert(
      fc.property(digest, (bytes) => {
        const sri = narHashOf(bytes);
        expect(Buffer.compare(digestOf(sri), bytes)).toBe(0);
        expect(parseNarHash(sri)).toBe(sri);
        expect(parseNarHash(`sha256:${toNixBase32(bytes)}`)).toBe(sri);
        expect(parseNarHash(`sha256:${toBase16(bytes)}`)).toBe(sri);
      }),
    );
  });

  it('accepts one text per digest in nixbase32', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
        expect(Buffer.compare(fromNixBase32(toNixBase32(bytes)), bytes)).toBe(0);
      }),
    );
    fc.assert(
      fc.property(
        fc.string({
          minLength: 52,
          maxLength: 52,
          unit: fc.constantFrom(...'0123456789abcdfghijklmnpqrsvwxyz'),
        }),
        (text) => {
          let bytes: Buffer;
          try {
            bytes = fromNixBase32(text);
          } catch {
            return;
          }
          expect(toNixBase32(bytes)).toBe(text);
        },
      ),
    );
  });

  it.each([
    '',
    'sha256-',
    'sha256',
    'md5-WJG5tSLV3whtD/CxEOvZ0g==',
    'sha512:00',
    'sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM',
    'sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgN=',
    'sha256-WJG1tSLV3whtD_CxEPvZ0hu0_HFjrzTQgoai6Eb2vgM=',
    ' sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=',
    `sha256:${'e'.repeat(52)}`,
    `sha256:${'z'.repeat(52)}`,
    `sha256:${'0'.repeat(63)}`,
    `sha256-${'0'.repeat(64)}`,
    `sha256:${'0'.repeat(64)}\n`,
    `sha256-${'A'.repeat(1_000_000)}`,
  ])('refuses %#: %.70s', (text) => {
    expect(() => parseHash(text)).toThrowError(expect.objectContaining({ code: 'FLK_HASH_INVALID' }));
  });
});

describe.skipIf(!nixAvailable())(`hashes ${nixReason}`, () => {
  it('prints what nix-hash prints', async () => {
    const samples = fc.sample(digest, 5);
    for (const bytes of samples) {
      const hex = toBase16(bytes);
      const base32 = await nixCommand('nix-hash', ['--type', 'sha256', '--to-base32', hex]);
      const sri = await nixCommand('nix-hash', ['--type', 'sha256', '--to-sri', hex]);
      expect(base32.stdout.trim()).toBe(toNixBase32(bytes));
      expect(sri.stdout.trim()).toBe(narHashOf(bytes));
    }
  });
});
