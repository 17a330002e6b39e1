/** A Git repository of this machine where somebody works: the files that Git tracks there, with their changes, as a source. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FlkError } from '../base/errors.ts';
import type { Reporter } from '../base/events.ts';
import type { GitRef, Rev } from '../flake/flake-ref.ts';
import type { Source, SourceTree, WorkingFiles } from '../flake/source.ts';
import { bytePath } from '../store/tree-files.ts';
import { TrackedFiles, type TrackedState } from './tracked-files.ts';
import { assertTracked, hasGit, readTracked } from './worktree.ts';

export interface WorkingTreeOptions {
  readonly reporter: Reporter;
  readonly signal?: AbortSignal;
  /** Fetches the committed tree of a repository without changes. */
  readonly source: Pick<Source, 'fetch'>;
  /** A file, from the root, without which the tree is of no use: FLK_MANIFEST_UNTRACKED when Git does not know it. */
  readonly manifestPath?: string;
  /** False: changes that are not committed are FLK_GIT_DIRTY. Default true. */
  readonly allowDirty?: boolean;
  /** Whether changes are worth a notice; asked only where there are some. Default: they are. */
  readonly warnDirty?: (() => Promise<boolean>) | undefined;
  /** What Git says of the tree, submodules apart, where that was asked before. */
  readonly tracked?: Promise<TrackedState> | undefined;
}

/** What lies there at one moment. */
interface WorkingTree {
  readonly tree: SourceTree;
  /** Pinned by `rev` when nothing is changed, else by `narHash` alone. Has `lastModified`. */
  readonly locked: GitRef;
  readonly dirty: boolean;
  /** HEAD, also of a dirty tree. */
  readonly rev?: Rev;
  /** Seconds since 1970: HEAD's committer time. */
  readonly lastModified: number;
}

/** The same, and what of it is known without reading all files. */
export interface WorkingTreeFiles {
  readonly files: SourceTree | WorkingFiles;
  readonly dirty: boolean;
  /** The same answer each time. */
  whole(): Promise<WorkingTree>;
}

/** The folder of a working tree that a reference means: without ref and rev, as it is, changes and all (so Nix 2.34 has it). */
export function workingTreeOf(ref: GitRef): string | undefined {
  if (!ref.url.startsWith('file:///') || ref.ref !== undefined || ref.rev !== undefined) return undefined;
  const root = fileURLToPath(`file://${new URL(ref.url).pathname}`);
  return existsSync(join(root, '.git')) ? root : undefined;
}

/** Reads Git's state; files with changes are read when they are asked for. Throws FLK_GIT_WORKTREE, and what fetching throws. */
export async function openWorkingTree(
  ref: GitRef,
  root: string,
  options: WorkingTreeOptions,
): Promise<WorkingTreeFiles> {
  const state = await (ref.submodules
    ? readWithSubmodules(root, options)
    : (options.tracked ?? readTracked(root, options.signal)));
  const { manifestPath } = options;
  if (manifestPath !== undefined && !state.entries.some(({ path }) => path === bytePath(manifestPath)))
    await assertTracked(root, manifestPath);
  const { rev, lastModified, dirty } = state;
  if (dirty && options.allowDirty === false)
    throw new FlkError('FLK_GIT_DIRTY', `${root} has changes that are not committed`);
  if (!dirty && rev !== undefined) {
    // Committed bytes, not those on disk: a checkout may have other line ends, and HEAD is what everybody else gets.
    const pinned: GitRef = { ...ref, rev, ...(state.ref === undefined ? {} : { ref: state.ref }) };
    if (ref.submodules) return known(await openWithSubmodules(pinned, root, state, options));
    if (await hasGit()) {
      const { locked, tree } = await options.source.fetch(pinned);
      // A detached HEAD is on no branch.
      const { ref: _, ...rest } = { ...pinned, ...locked } as GitRef;
      const whole: GitRef = state.ref === undefined ? rest : { ...rest, ref: state.ref };
      return known({ tree, locked: whole, dirty, rev, lastModified });
    }
    const { openCommitByIsomorphicGit } = await import('./worktree-isomorphic.ts');
    const tree = await openCommitByIsomorphicGit(root, rev, options.signal);
    return known({
      tree,
      locked: { ...pinned, lastModified, narHash: tree.narHash },
      dirty,
      rev,
      lastModified,
    });
  }
  if (dirty && (await options.warnDirty?.()) !== false)
    options.reporter.emit({ kind: 'notice', notice: { type: 'dirty-tree', path: root } });
  const files = new TrackedFiles(root, state.entries, options);
  const read = async (): Promise<WorkingTree> => {
    const tree = await files.hashed();
    return {
      tree,
      locked: {
        ...ref,
        // What it was before it was changed, for people: it says nothing about the bytes.
        ...(rev === undefined ? {} : { dirtyRev: `${rev}-dirty`, dirtyShortRev: `${rev.slice(0, 7)}-dirty` }),
        lastModified,
        narHash: tree.narHash,
      },
      dirty,
      ...(rev === undefined ? {} : { rev }),
      lastModified,
    };
  };
  let whole: Promise<WorkingTree> | undefined;
  return {
    files,
    dirty,
    whole: () => {
      whole ??= read();
      return whole;
    },
  };
}

const known = (whole: WorkingTree): WorkingTreeFiles => ({
  files: whole.tree,
  dirty: whole.dirty,
  whole: async () => whole,
});

/** Few have submodules: the module is loaded for them. */
async function readWithSubmodules(root: string, options: WorkingTreeOptions): Promise<TrackedState> {
  const { readTrackedWithSubmodules } = await import('./worktree-submodules.ts');
  return await readTrackedWithSubmodules(root, options.signal);
}

/** Nothing is changed; but which commits of its submodules are checked out, HEAD does not say. So what is on disk counts, as in Nix. */
async function openWithSubmodules(
  pinned: GitRef,
  root: string,
  state: TrackedState,
  options: WorkingTreeOptions,
): Promise<WorkingTree> {
  const { rev, lastModified } = state;
  const [{ locked }, tree] = await Promise.all([
    options.source.fetch({ ...pinned, submodules: false }),
    new TrackedFiles(root, state.entries, options).hashed(),
  ]);
  return {
    tree,
    locked: { ...(locked as GitRef), submodules: true, narHash: tree.narHash },
    dirty: false,
    ...(rev === undefined ? {} : { rev }),
    lastModified,
  };
}
