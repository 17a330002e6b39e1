/** What a flake reference says, one shape for each kind of source: the attribute form of locks and manifests. */
import type { NarHash } from '../formats/hash.ts';

/** Forty lower-case hex digits. */
export type Rev = string & { readonly __brand: 'Rev' };

/** What any reference may say beside where it leads; which of it a kind of reference takes, parsing decides. */
interface CommonRef {
  readonly rev?: Rev;
  /** Subfolder that holds the flake; no leading slash, no `..`. A slash at its end says nothing more. */
  readonly dir?: string;
  readonly narHash?: NarHash;
  /** Seconds since 1970: the commit's (committer), an archive's newest entry's, a folder's newest mtime. */
  readonly lastModified?: number;
  readonly revCount?: number;
}

export interface GitRef extends CommonRef {
  readonly type: 'git';
  /** Without `git+`: `https://…`, `http://…`, `file:///…`, `ssh://…`, `git://…`. */
  readonly url: string;
  /** As written: `main`, `refs/tags/v1`. */
  readonly ref?: string;
  readonly shallow?: boolean;
  readonly submodules?: boolean;
  readonly lfs?: boolean;
  readonly exportIgnore?: boolean;
  readonly allRefs?: boolean;
  /** Of the store path. */
  readonly name?: string;
  /** Of a tree with changes that no commit holds: `REV-dirty`, full and short. */
  readonly dirtyRev?: string;
  readonly dirtyShortRev?: string;
}

export interface PathRef extends CommonRef {
  readonly type: 'path';
  /** Absolute, or relative to the manifest that names it (`./x`, `../x`). */
  readonly path: string;
}

/** A repository at a forge that offers every revision as an archive. */
export interface ForgeRef extends CommonRef {
  readonly type: 'github' | 'gitlab' | 'sourcehut';
  /** GitLab's may be several names: `group/subgroup`. SourceHut's begins with `~`. */
  readonly owner: string;
  readonly repo: string;
  /** Where it is not the forge's own: `gitlab.example.org`. */
  readonly host?: string;
  readonly ref?: string;
  readonly treeHash?: string;
}

/** An archive that is unpacked without its top folder, or one file as it is. */
export interface CurlRef extends CommonRef {
  readonly type: 'tarball' | 'file';
  /** Without `tarball+` or `file+`: `https://…`, `http://…`, `file:///…`. */
  readonly url: string;
  /** Of the store path. */
  readonly name?: string;
  readonly unpack?: boolean;
}

/** A name that a registry leads on to another reference: `nixpkgs`, `flake:nixpkgs/release`. */
export interface IndirectRef extends CommonRef {
  readonly type: 'indirect';
  readonly id: string;
  readonly ref?: string;
}

export type FlakeRef = GitRef | PathRef | ForgeRef | CurlRef | IndirectRef;

export type RefAttributes = Readonly<Record<string, string | number | boolean>>;
