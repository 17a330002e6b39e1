/**
 * Content addresses (`CA` in narinfos): what a path's name is computed from, so that the bytes themselves prove that they belong to
 * it. Format: Nix 2.34's `ContentAddress`; here with SHA-256, and for trees without references to themselves.
 */
import { createHash } from 'node:crypto';
import { digestOf, type NarHash, narHashOf, parseHash } from './hash.ts';
import type { TreeSink } from './nar.ts';
import {
  makeFixedOutputPath,
  makeSourcePath,
  makeTextDigestPath,
  nameOf,
  type StorePath,
} from './store-path.ts';

/** What must be looked at: the NAR as a whole, or the bytes of the one file that it holds. */
export interface ContentAddress {
  readonly of: 'nar' | 'file';
  readonly hash: NarHash;
}

/** The content address, if it is one that flk can check and the path follows from it; a text without effect otherwise. */
export function provenAddress(info: {
  readonly path: StorePath;
  readonly references: readonly StorePath[];
  readonly ca?: string | undefined;
}): ContentAddress | undefined {
  const { path, references, ca = '' } = info;
  const [, method, hash] = /^(text|fixed:r|fixed):(sha256:[0-9a-z]+)$/.exec(ca) ?? [];
  if (method === undefined || hash === undefined || references.includes(path)) return undefined;
  const digest = readHash(hash);
  if (!digest) return undefined;
  const found = { of: method === 'fixed:r' ? 'nar' : 'file', hash: narHashOf(digest) } as const;
  return pathOf(method, nameOf(path), found.hash, references) === path ? found : undefined;
}

function pathOf(
  method: string,
  name: string,
  hash: NarHash,
  references: readonly StorePath[],
): StorePath | undefined {
  if (method === 'fixed:r') return makeSourcePath(name, hash, references);
  if (method === 'text') return makeTextDigestPath(name, digestOf(hash), references);
  return references.length === 0 ? makeFixedOutputPath(name, 'sha256', digestOf(hash)) : undefined;
}

function readHash(text: string): Buffer | undefined {
  try {
    return parseHash(text);
  } catch {
    return undefined;
  }
}

/** Hashes the bytes of a tree that is one plain file; of any other tree the hash is undefined. */
export function fileHasher(): TreeSink & { digest(): NarHash | undefined } {
  const hash = createHash('sha256');
  let plain = false;
  const other = (): void => {
    plain = false;
  };
  return {
    directory: other,
    entry: other,
    endDirectory: other,
    file: (_size, executable) => {
      plain = !executable;
    },
    data: (chunk) => void hash.update(chunk),
    endFile: () => {},
    symlink: other,
    digest: () => (plain ? narHashOf(hash.digest()) : undefined),
  };
}
