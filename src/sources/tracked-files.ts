/** The files of a repository that Git tracks: what is known of them, and the tree that they are on disk. */
import { FlkError } from '../base/errors.ts';
import { type Reporter, span } from '../base/events.ts';
import type { Rev } from '../flake/flake-ref.ts';
import type { SourceTree } from '../flake/source.ts';
import { hashTree, isNodeName, maxDepth, type TreeSink } from '../formats/nar.ts';
import type { NodeKind, NodePath } from '../formats/tree-sinks.ts';
import { bytePath, onDisk, walkPath } from '../store/tree-files.ts';
import { lookAt, readBelow } from './disk.ts';

/** What Git says of a working tree; which program says it does not matter. */
export interface TrackedState {
  /** All tracked paths, once each: also those that are deleted on disk, and those known by `git add -N` only. */
  readonly entries: readonly TrackedEntry[];
  /** HEAD's commit; undefined before the first one. */
  readonly rev?: Rev;
  /** `refs/heads/main`; undefined for a detached HEAD. */
  readonly ref?: string;
  /** HEAD's committer time in seconds, 0 before the first commit: also for a dirty tree, as Nix 2.34 has it. */
  readonly lastModified: number;
  /** Whether any tracked file, its mode or the index differs from HEAD. What is inside submodules does not count. */
  readonly dirty: boolean;
}

export interface TrackedEntry {
  /** From the repository's root, in bytes. */
  readonly path: Buffer;
  /** Submodules are empty folders in a source tree. */
  readonly submodule: boolean;
}

export interface WorkingTreeOptions {
  readonly reporter: Reporter;
  readonly signal?: AbortSignal;
}

/** Hashes the tracked files of `root` as they are on disk, and gives them as a tree. Throws FLK_GIT_TREE. */
export async function openTrackedFiles(
  root: string,
  entries: readonly TrackedEntry[],
  options: WorkingTreeOptions,
): Promise<SourceTree> {
  const tracked: Folder = new Map();
  for (const entry of entries) addEntry(root, tracked, entry);
  const walk = (sink: TreeSink, signal?: AbortSignal, progress?: (bytes: number) => void): Promise<void> => {
    const present = presentNodes(root, tracked);
    const wants = (path: NodePath, kind: NodeKind): boolean => {
      const wanted = present.get(path);
      return kind === 'directory' ? wanted === 'folder' : wanted === 'file';
    };
    return walkPath(root, { wants, ...(progress === undefined ? {} : { progress }) }).walk(sink, signal);
  };
  const isTracked = (path: string): boolean => {
    let at: Folder | 'file' | 'submodule' | undefined = tracked;
    for (const name of Buffer.from(path).toString('latin1').split('/'))
      at = at instanceof Map ? at.get(name) : undefined;
    return at === 'file';
  };
  return await span(options.reporter, { type: 'hash', subject: root }, async (work) => {
    const progress = (bytes: number): void => work.progress(bytes, undefined, 'bytes');
    return {
      ...(await hashTree({ walk: (sink, signal) => walk(sink, signal, progress) }, options.signal)),
      walk: (sink, signal) => walk(sink, signal),
      readFile: async (path) => (isTracked(path) ? readBelow(root, path) : undefined),
    };
  });
}

/** What Git tracks, by name (latin1, one character per byte). */
type Folder = Map<string, Folder | 'file' | 'submodule'>;

function addEntry(root: string, tracked: Folder, { path, submodule }: TrackedEntry): void {
  const names = path.toString('latin1').split('/');
  const isSafe = names.every(
    (name) => isNodeName(Buffer.from(name, 'latin1')) && name.toLowerCase() !== '.git',
  );
  if (!isSafe || names.length > maxDepth)
    throw new FlkError('FLK_GIT_TREE', `the index of ${root} holds a forbidden path: ${path}`);
  const last = names.pop()!;
  let folder = tracked;
  for (const name of names) {
    let next = folder.get(name);
    if (!(next instanceof Map)) {
      // During a conflict a path may be a file on one side and a folder on the other.
      next = new Map();
      folder.set(name, next);
    }
    folder = next;
  }
  if (!folder.has(last)) folder.set(last, submodule ? 'submodule' : 'file');
}

/**
 * The tracked nodes that are on disk now. Git has no empty folders, so neither has the tree, but for submodules, which are
 * nothing else. Where a tracked folder is now a link or a file, what was in it is deleted: never look through it.
 */
function presentNodes(root: string, tracked: Folder): Map<NodePath, 'folder' | 'file'> {
  const present = new Map<NodePath, 'folder' | 'file'>();
  const base = bytePath(root);
  const visit = (folder: Folder, prefix: NodePath): boolean => {
    let any = false;
    for (const [name, entry] of folder) {
      const path = prefix + name;
      const info = lookAt(onDisk(`${base}/${path}`));
      let kind: 'folder' | 'file' | undefined;
      if (entry === 'file') kind = info?.isFile() || info?.isSymbolicLink() ? 'file' : undefined;
      else if (info?.isDirectory() && (entry === 'submodule' || visit(entry, `${path}/`))) kind = 'folder';
      if (kind === undefined) continue;
      present.set(path, kind);
      any = true;
    }
    return any;
  };
  visit(tracked, '');
  return present;
}
