/** `/nix/store/HASH-NAME`: rules, computation, parsing. */
import { FlkError } from '../base/errors.ts';
import { digestOf, type NarHash, sha256, sha256Hex, toBase16, toNixBase32 } from './hash.ts';

/** A whole logical path, `/nix/store/<32 nixbase32 characters>-<name>`, wherever it physically lies. */
export type StorePath = string & { readonly __brand: 'StorePath' };

/** The logical store. It is a part of every hash, so there is no other. */
export const storeDir = '/nix/store';

/** 160 bits in nixbase32. */
export const hashPartLength = 32;
const maxNameLength = 211;
const hashPartShape = /^[0-9abcdfghijklmnpqrsvwxyz]{32}$/;

/** Whether a store path may have this name: 1 to 211 of `0-9a-zA-Z+-._?=`, and no first component `.` or `..` before a dash. */
export function isStoreName(name: string): boolean {
  return name.length <= maxNameLength && /^(?!\.\.?(-|$))[0-9a-zA-Z+\-._?=]+$/.test(name);
}

/** Throws FLK_STORE_PATH_INVALID unless the text is a store path, with nothing below it. */
export function parseStorePath(text: string): StorePath {
  const invalid = (what: string): FlkError =>
    new FlkError('FLK_STORE_PATH_INVALID', `not a store path: ${text.slice(0, 300)}: ${what}`);
  if (!text.startsWith(`${storeDir}/`)) throw invalid(`it does not lie in ${storeDir}`);
  const base = text.slice(storeDir.length + 1);
  if (base.includes('/')) throw invalid('it lies deeper');
  if (!hashPartShape.test(base.slice(0, hashPartLength)) || base[hashPartLength] !== '-')
    throw invalid('its hash part is not 32 characters of nixbase32');
  if (!isStoreName(base.slice(hashPartLength + 1))) throw invalid('its name is forbidden');
  return text as StorePath;
}

/** The 32 characters that a reference scan looks for. */
export function hashPart(path: StorePath): string {
  return path.slice(storeDir.length + 1, storeDir.length + 1 + hashPartLength);
}

/** What follows the hash part and its dash. */
export function nameOf(path: StorePath): string {
  return path.slice(storeDir.length + hashPartLength + 2);
}

/** The last component, `HASH-NAME`. */
export function baseNameOf(path: StorePath): string {
  return path.slice(storeDir.length + 1);
}

/** A tree added by its NAR hash. `self`: its content names its own path (the NAR hash is then taken with that hash zeroed). */
export function makeSourcePath(
  name: string,
  narHash: NarHash,
  references: Iterable<StorePath> = [],
  self = false,
): StorePath {
  const type = ['source', ...sorted(references), ...(self ? ['self'] : [])].join(':');
  return makeStorePath(type, toBase16(digestOf(narHash)), name);
}

/** A text object, as `.drv` files are. */
export function makeTextPath(
  name: string,
  contents: string | Uint8Array,
  references: Iterable<StorePath> = [],
): StorePath {
  return makeStorePath(textType(references), sha256Hex(contents), name);
}

/** The same, from the SHA-256 of its contents. */
export function makeTextDigestPath(
  name: string,
  digest: Uint8Array,
  references: Iterable<StorePath> = [],
): StorePath {
  return makeStorePath(textType(references), toBase16(digest), name);
}

const textType = (references: Iterable<StorePath>): string => ['text', ...sorted(references)].join(':');

/** The output of a fixed-output derivation: `r:sha256` over the NAR, `sha256` (flat) over a single file's bytes. */
export function makeFixedOutputPath(
  name: string,
  hashAlgo: 'sha256' | 'r:sha256',
  digest: Uint8Array,
): StorePath {
  if (hashAlgo === 'r:sha256') return makeStorePath('source', toBase16(digest), name);
  return makeStorePath('output:out', sha256Hex(`fixed:out:sha256:${toBase16(digest)}:`), name);
}

/** An output of any other derivation; `digest` is its hash modulo fixed outputs, `name` the derivation's. */
export function makeOutputPath(outputName: string, digest: Uint8Array, name: string): StorePath {
  return makeStorePath(
    `output:${outputName}`,
    toBase16(digest),
    outputName === 'out' ? name : `${name}-${outputName}`,
  );
}

/** `inner`: in base16. */
function makeStorePath(type: string, inner: string, name: string): StorePath {
  if (!isStoreName(name))
    throw new FlkError(
      'FLK_STORE_PATH_INVALID',
      `${JSON.stringify(name.slice(0, 300))} cannot name a store path`,
      {
        hint: `1 to ${maxNameLength} of letters, digits and + - . _ ? =`,
      },
    );
  const digest = sha256(`${type}:sha256:${inner}:${storeDir}:${name}`);
  // 32 bytes folded to 20.
  for (let i = 20; i < digest.length; i++) digest[i - 20]! ^= digest[i]!;
  return `${storeDir}/${toNixBase32(digest.subarray(0, 20))}-${name}` as StorePath;
}

/** They are ASCII, for which every order is the bytes'. */
const sorted = (references: Iterable<StorePath>): StorePath[] => [...new Set(references)].sort();
