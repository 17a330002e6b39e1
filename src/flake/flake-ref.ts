/**
 * Flake references: where a flake is (string form in manifests and on the command line, attribute form in locks), printed the
 * way Nix 2.34 prints them.
 */
import type { NarHash } from '../formats/hash.ts';

/** Forty lower-case hex digits. */
export type Rev = string & { readonly __brand: 'Rev' };

export interface GitRef {
  readonly type: 'git';
  /** Without `git+`: `https://…`, `http://…`, `file:///…`, `ssh://…`. */
  readonly url: string;
  /** As written: `main`, `refs/tags/v1`. */
  readonly ref?: string;
  readonly rev?: Rev;
  /** Subfolder that holds the flake, no leading or trailing slash. */
  readonly dir?: string;
  readonly shallow?: boolean;
  readonly submodules?: boolean;
  readonly lfs?: boolean;
  readonly exportIgnore?: boolean;
  readonly allRefs?: boolean;
  readonly narHash?: NarHash;
  /** Seconds since 1970 of the commit (committer). */
  readonly lastModified?: number;
  readonly revCount?: number;
}

export interface PathRef {
  readonly type: 'path';
  /** Absolute, or relative to the manifest that names it (`./x`, `../x`). */
  readonly path: string;
  readonly dir?: string;
  readonly rev?: Rev;
  readonly narHash?: NarHash;
  readonly lastModified?: number;
  readonly revCount?: number;
}

export type FlakeRef = GitRef | PathRef;
