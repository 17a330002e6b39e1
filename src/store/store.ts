/** The store: immutable trees under `ROOT/nix/store`, each valid once its record is in the database. */
import type { NarHash } from '../formats/hash.ts';
import type { Tree } from '../formats/nar.ts';
import type { StorePath } from '../formats/store-path.ts';
import type { PathInfo } from './path-info.ts';

export interface Store {
  /** The physical folder that stands for `/`: paths lie in `ROOT/nix/store`, the database in `ROOT/nix/var/flk`. */
  readonly root: string;
  /** Where a logical path lies on disk, valid or not. */
  physical(path: StorePath): string;
  query(path: StorePath): PathInfo | undefined;
  /** The paths and everything they refer to, sorted; throws FLK_STORE_CORRUPT when one is not valid. */
  closure(paths: Iterable<StorePath>): StorePath[];
  /** Writes a tree as a content-addressed source (`source` fingerprint). Does nothing when it is there. `expected` is verified. */
  addTree(
    name: string,
    tree: Tree,
    options?: { expected?: NarHash; references?: readonly StorePath[] },
  ): Promise<PathInfo>;
  /** Writes a text object (`.drv` files). */
  addText(name: string, contents: string, references: readonly StorePath[]): Promise<PathInfo>;
  /** A fresh folder on the store's file system, for staging; removed by `dispose`, or by the next flk when this one dies. */
  stage(): Promise<{ readonly path: string; dispose(): Promise<void> }>;
  /**
   * Moves staged, canonical trees to their places and records them, all or none visible as valid. `replace`: over what is there
   * (a corrupt path made anew).
   */
  register(
    entries: readonly { readonly info: PathInfo; readonly staged: string }[],
    options?: { replace?: boolean },
  ): Promise<void>;
  /** Runs `work` while no other process builds or writes these paths. */
  withPathLocks<T>(paths: readonly StorePath[], work: () => Promise<T>): Promise<T>;
  /** The bytes on disk against the record; throws FLK_STORE_CORRUPT. */
  verifyPath(path: StorePath): Promise<void>;
  /** A tree over what lies on disk. */
  tree(path: StorePath): Tree;
  /** Facts that are costly to compute and never change: key → value, kept with the store. */
  memo(key: string): string | undefined;
  setMemo(key: string, value: string): void;
  /** Keeps a path alive through a symlink outside the store (`result`), by a name under `nix/var/nix/gcroots/auto`. */
  addIndirectRoot(link: string): Promise<void>;
  close(): void;
}
