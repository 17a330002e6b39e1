import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { algorithms, notations, parseDigest, printDigest } from '../../../src/formats/digest.ts';
import { thrownBy } from '../../support/errors.ts';
import { nix, nixAvailable, nixReason } from '../../support/nix.ts';

const digests = fc
  .tuple(fc.constantFrom(...algorithms), fc.uint8Array({ maxLength: 40 }))
  .map(([algorithm, data]) => ({ algorithm, bytes: createHash(algorithm).update(data).digest() }));

describe('digests in every notation', () => {
  it('are read as they were printed, with and without their algorithm in front', () => {
    fc.assert(
      fc.property(digests, fc.constantFrom(...notations), (digest, notation) => {
        const text = printDigest(digest, notation);
        expect(parseDigest(text, digest.algorithm)).toEqual({ ...digest, notation });
        if (notation !== 'sri')
          expect(parseDigest(`${digest.algorithm}:${text}`)).toEqual({ ...digest, notation });
      }),
    );
  });

  const sha = createHash('sha256').update('').digest();
  for (const [what, text, algorithm] of [
    ['bare digits without an algorithm', sha.toString('hex'), undefined],
    ['another algorithm than was asked for', `sha256:${sha.toString('hex')}`, 'sha1'],
    ['digits of another length', 'sha256:ff', undefined],
    ['base64 with bits past its end', `sha256-${sha.toString('base64').replace(/.=$/, '/=')}`, undefined],
    ['an algorithm that nobody knows', `md4:${sha.toString('hex')}`, undefined],
    ['base16 written as SRI', `sha256-${sha.toString('hex')}`, undefined],
    ['nothing', '', 'sha256'],
  ] as const)
    it(`refuse ${what}`, () => {
      expect(thrownBy(() => parseDigest(text, algorithm)).code).toBe('FLK_HASH_INVALID');
    });
});

describe.skipIf(!nixAvailable())(`the same as nix hash convert ${nixReason}`, () => {
  it('for each algorithm and notation', async () => {
    for (const digest of fc.sample(digests, { numRuns: 6, seed: 1 }))
      for (const notation of notations) {
        const sri = printDigest(digest, 'sri');
        const { stdout } = await nix(['hash', 'convert', '--to', notation, sri]);
        expect(printDigest(parseDigest(sri), notation)).toBe(stdout.trim());
      }
  });
});
