/** SHA-256 digests and the three ways Nix prints them: SRI, nixbase32 and base16. */
import { hash } from 'node:crypto';
import { FlkError } from '../base/errors.ts';

/** `sha256-` and padded base64: how locks and manifests print a hash. */
export type NarHash = string & { readonly __brand: 'NarHash' };

const digestBytes = 32;
const base32Alphabet = '0123456789abcdfghijklmnpqrsvwxyz';
const base32Values = new Map([...base32Alphabet].map((character, value) => [character, value]));

/** The SHA-256 of some bytes, or of text as UTF-8; 32 bytes. */
export function sha256(data: string | Uint8Array): Buffer {
  // At two thirds of what a Hash object takes: a graph of packages needs tens of thousands.
  return hash('sha256', data, 'buffer');
}

/** The same in base16. */
export function sha256Hex(data: string | Uint8Array): string {
  return hash('sha256', data, 'hex');
}

/**
 * The digest in `sha256-BASE64`, `sha256:NIXBASE32`, `sha256:BASE16`, or in the last two without their prefix.
 * Throws FLK_HASH_INVALID: also for base64 or nixbase32 with bits set that no digest has.
 */
export function parseHash(text: string): Buffer {
  const [, algorithm, separator, body] = /^(?:([a-z0-9]+)([-:]))?([\s\S]*)$/.exec(text) ?? [];
  if (body === undefined || text.length > 200) throw invalid(text, 'not a SHA-256 hash');
  if (algorithm !== undefined && algorithm !== 'sha256')
    throw invalid(text, `${algorithm} is not a hash that flk takes`);
  if (separator === '-') {
    const digest = Buffer.from(body, 'base64');
    if (digest.length === digestBytes && digest.toString('base64') === body) return digest;
  } else if (/^[0-9a-fA-F]{64}$/.test(body)) {
    return Buffer.from(body, 'hex');
  } else if (body.length === 52) {
    return fromNixBase32(body);
  }
  throw invalid(text, 'not a SHA-256 hash');
}

/** Any form that `parseHash` takes, as the one that flk prints. */
export function parseNarHash(text: string): NarHash {
  return narHashOf(parseHash(text));
}

/** A digest of 32 bytes as SRI. */
export function narHashOf(digest: Uint8Array): NarHash {
  return `sha256-${bytes(digest).toString('base64')}` as NarHash;
}

/** The 32 bytes behind an SRI hash. */
export function digestOf(hash: NarHash): Buffer {
  return Buffer.from(hash.slice('sha256-'.length), 'base64');
}

/** Lower-case hex. */
export function toBase16(digest: Uint8Array): string {
  return bytes(digest).toString('hex');
}

/** Nix's base 32: least significant digit last, without e, o, t and u. 32 bytes give 52 characters, 20 bytes 32. */
export function toNixBase32(data: Uint8Array): string {
  let text = '';
  for (let digit = Math.ceil((data.length * 8) / 5) - 1; digit >= 0; digit--) {
    const bit = digit * 5;
    const byte = bit >> 3;
    const pair = data[byte]! | ((data[byte + 1] ?? 0) << 8);
    text += base32Alphabet[(pair >> (bit & 7)) & 31];
  }
  return text;
}

/** The bytes behind nixbase32 text of any length. Throws FLK_HASH_INVALID for other characters and for bits past the last byte. */
export function fromNixBase32(text: string): Buffer {
  const data = Buffer.alloc(Math.floor((text.length * 5) / 8));
  for (let digit = 0; digit < text.length; digit++) {
    const value = base32Values.get(text[text.length - 1 - digit]!);
    if (value === undefined) throw invalid(text, 'not nixbase32');
    const bit = digit * 5;
    const byte = bit >> 3;
    const pair = value << (bit & 7);
    if (pair & 255 && byte < data.length) data[byte]! |= pair & 255;
    else if (pair & 255) throw invalid(text, 'nixbase32 with bits past its end');
    if (pair >> 8 && byte + 1 < data.length) data[byte + 1]! |= pair >> 8;
    else if (pair >> 8) throw invalid(text, 'nixbase32 with bits past its end');
  }
  return data;
}

const bytes = (data: Uint8Array): Buffer => Buffer.from(data.buffer, data.byteOffset, data.byteLength);

function invalid(text: string, message: string): FlkError {
  return new FlkError('FLK_HASH_INVALID', `${message}: ${text.slice(0, 100)}`, {
    facts: { found: text.slice(0, 100), wanted: 'sha256-BASE64, sha256:NIXBASE32 or sha256:BASE16' },
  });
}
