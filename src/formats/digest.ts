/** Digests by any of Nix's algorithms, in any of its notations, as `nix hash` reads and prints them. */
import { FlkError } from '../base/errors.ts';
import { fromNixBase32, toNixBase32 } from './hash.ts';

/** Name → length in bytes. */
const lengths = { md5: 16, sha1: 20, sha256: 32, sha512: 64 } as const;
export type Algorithm = keyof typeof lengths;
export const algorithms = Object.keys(lengths) as readonly Algorithm[];

export const notations = ['base16', 'nix32', 'base64', 'sri'] as const;
export type Notation = (typeof notations)[number];

export interface Digest {
  readonly algorithm: Algorithm;
  readonly bytes: Buffer;
}

/** Throws FLK_HASH_INVALID. */
export function parseAlgorithm(text: string): Algorithm {
  const known = algorithms.find((name) => name === text);
  if (known === undefined) throw invalid(text, 'not an algorithm that flk knows', algorithms.join(', '));
  return known;
}

/** `base32` is what old Nix called nix32. Throws FLK_HASH_INVALID. */
export function parseNotation(text: string): Notation {
  const known = notations.find((name) => name === (text === 'base32' ? 'nix32' : text));
  if (known === undefined) throw invalid(text, 'not a notation of hashes', notations.join(', '));
  return known;
}

/**
 * `sha256-BASE64`, `sha256:ANY`, or the bare digits where `algorithm` says whose they are; with the notation found. Throws
 * FLK_HASH_INVALID: also for digits with bits set that no digest has, and where the text names another algorithm.
 */
export function parseDigest(text: string, algorithm?: Algorithm): Digest & { readonly notation: Notation } {
  const [, prefix, separator = '', digits = ''] = /^(?:([a-zA-Z0-9]+)([-:]))?([\s\S]*)$/.exec(text) ?? [];
  const named = prefix === undefined ? algorithm : parseAlgorithm(prefix);
  if (named === undefined)
    throw invalid(text, 'a hash that does not say its algorithm', 'sha256:… or --hash-algo sha256');
  if (algorithm !== undefined && named !== algorithm)
    throw invalid(text, `a ${named} hash where ${algorithm} was asked for`, algorithm);
  const found = readDigits(digits, lengths[named], separator === '-');
  if (found === undefined)
    throw invalid(
      text,
      `not a ${named} hash`,
      `${named}-BASE64, or ${lengths[named]} bytes in base16, nix32 or base64`,
    );
  return { algorithm: named, ...found };
}

function readDigits(
  digits: string,
  length: number,
  sri: boolean,
): { bytes: Buffer; notation: Notation } | undefined {
  if (!sri && digits.length === length * 2 && /^[0-9a-fA-F]*$/.test(digits))
    return { bytes: Buffer.from(digits, 'hex'), notation: 'base16' };
  if (!sri && digits.length === Math.ceil((length * 8) / 5))
    return { bytes: fromNixBase32(digits), notation: 'nix32' };
  const bytes = Buffer.from(digits, 'base64');
  if (bytes.length !== length || bytes.toString('base64') !== digits) return undefined;
  return { bytes, notation: sri ? 'sri' : 'base64' };
}

/** Only SRI names the algorithm, as `nix hash` prints them. */
export function printDigest({ algorithm, bytes }: Digest, notation: Notation): string {
  switch (notation) {
    case 'base16':
      return bytes.toString('hex');
    case 'nix32':
      return toNixBase32(bytes);
    case 'base64':
      return bytes.toString('base64');
    case 'sri':
      return `${algorithm}-${bytes.toString('base64')}`;
  }
}

function invalid(text: string, what: string, wanted: string): FlkError {
  const found = text.slice(0, 200);
  return new FlkError('FLK_HASH_INVALID', `${what}: ${found}`, { facts: { found, wanted } });
}
