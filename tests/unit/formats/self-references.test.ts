import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { sha256 } from '../../../src/formats/hash.ts';
import { HashPartRewriter, ModuloHasher } from '../../../src/formats/self-references.ts';

const own = 'a'.repeat(31);
const from = `${own}b`;
const to = 'c'.repeat(32);

/** Bytes in which hash parts, and beginnings of them, are frequent, cut into chunks. */
const cut = fc
  .array(fc.constantFrom(from, own, 'a', 'b', 'x', '/nix/store/', to), { maxLength: 12 })
  .chain((parts) => {
    const whole = parts.join('');
    return fc.tuple(fc.constant(whole), fc.array(fc.nat(whole.length), { maxLength: 6 }));
  });

const chunksOf = (whole: string, cuts: readonly number[]): Buffer[] => {
  const places = [0, ...[...cuts].sort((a, b) => a - b), whole.length];
  return places.slice(1).map((end, i) => Buffer.from(whole.slice(places[i], end)));
};

describe('HashPartRewriter', () => {
  test('replaces what a search in the whole text would, however it is cut', () => {
    fc.assert(
      fc.property(cut, ([whole, cuts]) => {
        const sent: Buffer[] = [];
        const rewriter = new HashPartRewriter(Buffer.from(from), Buffer.from(to), (chunk) =>
          sent.push(Buffer.from(chunk)),
        );
        for (const chunk of chunksOf(whole, cuts)) rewriter.update(chunk);
        rewriter.end();
        expect(Buffer.concat(sent).toString()).toBe(whole.replaceAll(from, to));
        expect(rewriter.replaced).toBe(whole.split(from).length - 1);
      }),
      { numRuns: 1000 },
    );
  });

  test('leaves the bytes that it was given alone', () => {
    const chunk = Buffer.from(from);
    new HashPartRewriter(Buffer.from(from), Buffer.from(to), () => {}).update(chunk);
    expect(chunk.toString()).toBe(from);
  });
});

test('ModuloHasher hashes zeros where the path names itself', () => {
  const hasher = new ModuloHasher(from);
  hasher.update(Buffer.from(`x${from.slice(0, 10)}`));
  hasher.update(Buffer.from(`${from.slice(10)}y`));
  expect(hasher.digest()).toEqual({ digest: sha256(`x${'\0'.repeat(32)}y`), namesItself: true });
  expect(new ModuloHasher(from).digest()).toEqual({ digest: sha256(''), namesItself: false });
});
