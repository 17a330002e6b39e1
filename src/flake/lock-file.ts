/** `flake.lock`, version 7: the graph of locked inputs as JSON, byte for byte as Nix 2.34 writes it. */
import type { FlakeRef } from './flake-ref.ts';
import type { InputPath } from './manifest.ts';

/** An arrow of the graph: to a node by its key, or along a path from the root. */
export type LockEdge =
  | { readonly kind: 'node'; readonly key: string }
  | { readonly kind: 'follows'; readonly path: InputPath };

/** What only flk knows about a pin; Nix reads past it. */
export interface FlkFacts {
  /** The semver range asked for. */
  readonly version?: string;
  /** The tag chosen. */
  readonly tag?: string;
}

export interface LockNode {
  readonly inputs: ReadonlyMap<string, LockEdge>;
  /** Undefined on the root only. */
  readonly original?: FlakeRef;
  readonly locked?: FlakeRef;
  readonly flake: boolean;
  /** Relative path inputs: the path to the node whose folder they are relative to; empty for the root. */
  readonly parent?: InputPath;
  readonly flk?: FlkFacts;
}

export interface LockFile {
  readonly root: string;
  readonly nodes: ReadonlyMap<string, LockNode>;
}
