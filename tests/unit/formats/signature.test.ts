import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseNarHash } from '../../../src/formats/hash.ts';
import { fingerprint } from '../../../src/formats/narinfo.ts';
import {
  generateSecretKey,
  isSignature,
  isSignedBy,
  parsePublicKey,
  parseSecretKey,
  printPublicKey,
  printSecretKey,
  publicKeyOf,
  signText,
} from '../../../src/formats/signature.ts';
import type { StorePath } from '../../../src/formats/store-path.ts';
import { thrownBy } from '../../support/errors.ts';

/** Made by `nix key generate-secret`, `convert-secret-to-public` and `nix store sign` of Nix 2.34.8. */
const theirs = {
  secret: 'a-1:iRZW1CrdgCH9QwBi7qOse0sO3y9pu7uN9uOY416APsgu9Z1bCVwrANKcFyixHO/O0CHAkTPw/b5gUx14bo8CWg==',
  public: 'a-1:LvWdWwlcKwDSnBcosRzvztAhwJEz8P2+YFMdeG6PAlo=',
  signature: 'a-1:+E2AkaEMPIhkJCBC9h4vPIRiTUIBPXm9+8YVyt+lKDFwSR0YjI2dG9bfsorxFhsRGVLCSOZ2xiMs9Fl34gPMDQ==',
  info: {
    path: '/nix/store/2rvrdjbl567jrhj9isayn0xgdch7d15n-tree' as StorePath,
    narHash: parseNarHash('sha256-DfxUdT/fMwP+lMB6u6SG/vNO06A4LhIw5twnMBFHBRY='),
    narSize: 648,
    references: [],
  },
};

describe('keys and signatures', () => {
  it('are those of Nix', () => {
    const key = parseSecretKey(theirs.secret);
    expect(printSecretKey(key)).toBe(theirs.secret);
    expect(printPublicKey(publicKeyOf(key))).toBe(theirs.public);
    const text = fingerprint(theirs.info);
    expect(signText(text, key)).toBe(theirs.signature);
    expect(isSignedBy(text, theirs.signature, [parsePublicKey(theirs.public)])).toBe(true);
  });

  it('are read back as they were printed', () => {
    const key = generateSecretKey('cache.example.org-1');
    expect(printSecretKey(parseSecretKey(`${printSecretKey(key)}\n`))).toBe(printSecretKey(key));
    const shown = printPublicKey(publicKeyOf(key));
    expect(printPublicKey(parsePublicKey(shown))).toBe(shown);
  });

  it('hold for exactly what was signed, by exactly that key', () => {
    const key = generateSecretKey('k');
    const other = generateSecretKey('k');
    const renamed = { ...key, name: 'l' };
    const signature = signText('text', key);
    const keys = [publicKeyOf(key)];
    expect(isSignedBy('text', signature, keys)).toBe(true);
    expect(isSignedBy('texu', signature, keys)).toBe(false);
    expect(isSignedBy('text', signText('text', other), keys)).toBe(false);
    expect(isSignedBy('text', signText('text', renamed), keys)).toBe(false);
    expect(isSignedBy('text', signature, [])).toBe(false);
    // A key and its successor of the same name.
    expect(isSignedBy('text', signature, [publicKeyOf(other), ...keys])).toBe(true);
  });

  it('do not hold after any bit has changed', () => {
    const key = generateSecretKey('k');
    const keys = [publicKeyOf(key)];
    const bytes = Buffer.from(signText('text', key).slice(2), 'base64');
    fc.assert(
      fc.property(fc.nat({ max: bytes.length * 8 - 1 }), (bit) => {
        const changed = Buffer.from(bytes);
        changed[bit >> 3]! ^= 1 << (bit & 7);
        expect(isSignedBy('text', `k:${changed.toString('base64')}`, keys)).toBe(false);
      }),
    );
  });

  it.each([
    '',
    ':',
    'k',
    'k:',
    ':AAAA',
    'k:!!!!',
    'k:AAAA',
    `k:${'A'.repeat(88)}`,
    `k k:${'A'.repeat(86)}==`,
  ])('%j has signed nothing', (text) => {
    // The right form, by whatever algorithm, is no more than that.
    expect(isSignature(text)).toBe(/^k:A+$/.test(text));
    expect(isSignedBy('text', text, [publicKeyOf(generateSecretKey('k'))])).toBe(false);
  });
});

describe('what is no key', () => {
  it.each(['', 'k', 'k:', 'k:AAAA', `:${theirs.secret.slice(4)}`, `k ${theirs.secret}`, theirs.public])(
    'as a secret one: %j',
    (text) => expect(thrownBy(() => parseSecretKey(text)).code).toBe('FLK_KEY_INVALID'),
  );

  it('is a secret one whose halves belong to two', () => {
    const [one, two] = [generateSecretKey('k'), generateSecretKey('k')].map((key) =>
      Buffer.from(printSecretKey(key).slice(2), 'base64'),
    );
    const mixed = Buffer.concat([one!.subarray(0, 32), two!.subarray(32)]).toString('base64');
    expect(thrownBy(() => parseSecretKey(`k:${mixed}`)).code).toBe('FLK_KEY_INVALID');
  });

  it('is never repeated where it may be a secret', () => {
    const digits = theirs.secret.slice(4);
    for (const text of [theirs.secret.slice(0, -4), `${digits}`, `a b:${digits}`]) {
      const error = thrownBy(() => parseSecretKey(text));
      expect(error.message + JSON.stringify(error.facts)).not.toContain(digits.slice(0, 20));
    }
    const error = thrownBy(() => parsePublicKey(theirs.secret));
    expect(error.message).toBe('a-1 is a secret key where a public one belongs');
    expect(JSON.stringify(error.facts)).not.toContain(digits.slice(0, 20));
  });

  it.each(['', 'k', 'k:', 'k:AAAA', `k:${'A'.repeat(44)}`])('as a public one: %j', (text) => {
    expect(thrownBy(() => parsePublicKey(text)).code).toBe('FLK_KEY_INVALID');
  });

  it.each(['', 'a b', 'a:b', 'a\nb', 'x'.repeat(201)])('the name %j makes none', (name) => {
    expect(thrownBy(() => generateSecretKey(name)).code).toBe('FLK_KEY_INVALID');
  });
});
