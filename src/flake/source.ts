/** The port through which the locker, and everybody after it, sees the world's sources. `sources/` implements it. */

import type { NarHash } from '../formats/hash.ts';
import type { Tree, TreeSink } from '../formats/nar.ts';
import type { FlakeRef, ForgeRef, GitRef, Rev } from './flake-ref.ts';

/** The files of a whole repository or folder. */
interface SourceFiles extends Tree {
  /**
   * One file by its path from the tree's root (`sub/flake.yaml`), undefined when it is not a regular file there.
   * Larger than 16 MiB is FLK_LIMIT. Never follows symlinks.
   */
  readFile(path: string): Promise<Buffer | undefined>;
}

/** A source tree whose identity is known. Opening one moves no bytes that are already here. */
export interface SourceTree extends SourceFiles {
  /** The whole repository or folder, not only `dir`. */
  readonly narHash: NarHash;
  readonly narSize: number;
}

/**
 * Files where somebody works on them. All of them are read to know what they are as a whole; that a part of them is as it was
 * before shows at a glance.
 */
export interface WorkingFiles extends SourceFiles {
  /** The folder on this machine, absolute. */
  readonly place: string;
  /**
   * What the file system says of the node at `path` (`a/b`, UTF-8; empty for all) and what is below it, when it is first asked for:
   * another text once anything there is another. Undefined where that is not certain: where nothing is there, and where something
   * was written so lately that a later change could bear the same time.
   */
  stamp(path: string): string | undefined;
  /** Walks the node at `path` alone. False: there is none, and the sink has seen nothing. */
  walkAt(path: string, sink: TreeSink, signal?: AbortSignal): Promise<boolean>;
  /** Reads all of them, once. */
  hashed(): Promise<SourceTree>;
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
