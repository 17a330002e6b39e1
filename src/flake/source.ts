/** The port through which the locker, and everybody after it, sees the world's sources. `sources/` implements it. */

import type { NarHash } from '../formats/hash.ts';
import type { Tree } from '../formats/nar.ts';
import type { FlakeRef, ForgeRef, GitRef, Rev } from './flake-ref.ts';

/** A source tree whose identity is known. Opening one moves no bytes that are already here. */
export interface SourceTree extends Tree {
  /** The whole repository or folder, not only `dir`. */
  readonly narHash: NarHash;
  readonly narSize: number;
  /**
   * One file by its path from the tree's root (`sub/flake.yaml`), undefined when it is not a regular file there.
   * Larger than 16 MiB is FLK_LIMIT. Never follows symlinks.
   */
  readFile(path: string): Promise<Buffer | undefined>;
}

export interface Fetched {
  /** The reference with everything that pins it: rev, narHash, lastModified (git also ref). Keeps `dir` and the flags asked for. */
  readonly locked: FlakeRef;
  /** For an indirect reference: what the registries made of it. */
  readonly resolved?: FlakeRef;
  readonly tree: SourceTree;
}

/** Which registries may lead an indirect reference on: an input's only the command line's and the global one, as in Nix. */
export type Registries = 'all' | 'limited';

export interface Tag {
  /** Without `refs/tags/`. */
  readonly name: string;
  /** The commit: an annotated tag is peeled. */
  readonly rev: Rev;
}

export interface Source {
  /**
   * Resolves the reference (if it has no rev) and gives its tree. A `narHash` in the reference is verified: other bytes are
   * FLK_NAR_HASH_MISMATCH. Equal references asked for at once are fetched once. Relative paths are the caller's to resolve.
   * `registries` defaults to `limited`.
   */
  fetch(ref: FlakeRef, registries?: Registries): Promise<Fetched>;
  /** All tags of a repository, in no particular order. */
  tags(ref: GitRef | ForgeRef): Promise<readonly Tag[]>;
}
